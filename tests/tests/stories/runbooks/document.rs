//! The commands of a document.

/// A command, or another block of code that is meant to be typed, as it stands in a chapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Typed {
    pub chapter: String,
    pub text: String,
}

/// What is to be typed: each line of a block for a shell or for cron, those that go on after a backslash in one; each block
/// of SQL and of a configuration file as a whole.
pub(super) fn blocks(document: &str) -> Vec<Typed> {
    let (mut all, mut chapter, mut language, mut begun) = (Vec::new(), "", "", String::new());
    for line in document.lines() {
        let bare = line.trim_start();
        match (bare.strip_prefix("```"), language) {
            (Some(opened), "") => language = if opened.is_empty() { "text" } else { opened },
            (Some(_), _) => language = "",
            (None, "") => chapter = line.strip_prefix("## ").unwrap_or(chapter),
            (None, "sh" | "cron") => match bare.strip_suffix('\\') {
                Some(first) => begun.push_str(first),
                None => begun.push_str(bare),
            },
            (None, "sql" | "toml") => begun = begun + bare + "\n",
            (None, _) => {}
        }
        let goes_on = matches!(language, "sql" | "toml") || bare.ends_with('\\');
        if !begun.is_empty() && !goes_on {
            all.push(Typed { chapter: chapter.to_owned(), text: std::mem::take(&mut begun) });
        }
    }
    all
}

/// The code within the text, outside of blocks.
pub(super) fn spans(document: &str) -> Vec<String> {
    let (mut text, mut inside) = (String::new(), false);
    for line in document.lines() {
        match line.trim_start().starts_with("```") {
            true => inside = !inside,
            false if !inside => text = text + line.trim_start() + " ",
            false => {}
        }
    }
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The text with the place's own words for the document's examples; what was put in is not looked at again.
pub(super) fn put(text: &str, words: &[(String, String)]) -> String {
    let (mut rest, mut done) = (text, String::new());
    while let Some(first) = rest.chars().next() {
        let example =
            words.iter().filter(|(example, _)| rest.starts_with(example)).max_by_key(|(example, _)| example.len());
        let (taken, word) = example.map_or((first.len_utf8(), None), |(example, word)| (example.len(), Some(word)));
        let (head, tail) = rest.split_at(taken);
        done.push_str(word.map_or(head, String::as_str));
        rest = tail;
    }
    done
}

/// The absolute paths that a command names.
pub(super) fn paths(command: &str) -> impl Iterator<Item = &str> {
    command.split([' ', '\n', '\'', '"', '=', '>', '(', ')']).filter(|word| word.len() > 1 && word.starts_with('/'))
}

#[test]
fn what_is_typed_is_found_in_a_document() {
    let document = "## One `x`\n\n  ```sh\n  a 1 \\\n      2\n  b\n  ```\n`in\nhere`\n```sql\nSELECT 1\n;\n```\n## Two\n```\nno\n```\n```cron\n* c\n```\n";
    let typed = |chapter: &str, text: &str| Typed { chapter: chapter.to_owned(), text: text.to_owned() };
    let expected =
        [typed("One `x`", "a 1 2"), typed("One `x`", "b"), typed("One `x`", "SELECT 1\n;\n"), typed("Two", "* c")];
    assert_eq!(blocks(document), expected);
    assert_eq!(spans(document), ["x", "in here"]);
    let words = [("/a", "/b/a"), ("/a/c", "/d"), ("b", "x")].map(|(one, two)| (one.to_owned(), two.to_owned()));
    assert_eq!(put("/a /a/c b", &words), "/b/a /d x");
    assert_eq!(paths("cp -T /a=/b '/c d' 1/2 / > /e").collect::<Vec<_>>(), ["/a", "/b", "/c", "/e"]);
}
