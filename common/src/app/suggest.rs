//! "Did you mean …?"

/// The closest of `known` to `word`, when it is close enough to be what was meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const CLOSE_ENOUGH: f64 = 0.6;
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let word = plain(word);
    known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= CLOSE_ENOUGH)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("clustr", Some("cluster"))]
    #[case("Cluster", Some("cluster"))]
    #[case("keep_last", Some("keep-last"))]
    #[case("repositories", Some("repository"))]
    #[case("colour", None)]
    #[case("", None)]
    fn suggestions(#[case] word: &str, #[case] expected: Option<&str>) {
        assert_eq!(nearest(word, ["cluster", "repository", "keep-last"]), expected);
    }
}
