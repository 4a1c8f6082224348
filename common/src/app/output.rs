//! Standard output: data alone, as a table for people or one JSON document for programs.
//!
//! When the reader goes away (`recover list | head -1`) the rest is dropped and the program goes on: a recovery does
//! not stop in the middle because somebody closed a pager. Any other failure to write is an error.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use super::failure::single_line;

/// Where a program's data goes. Its calls may come from several threads; each writes its text whole.
pub struct Output {
    json: bool,
    width: Option<u16>,
    sink: Mutex<Sink>,
}

/// The version of the contract of all documents.
const JSON_FORMAT: u32 = 1;

#[derive(Serialize)]
struct Versioned<'a, D> {
    format: u32,
    #[serde(flatten)]
    document: &'a D,
}

struct Sink {
    writer: Box<dyn Write + Send>,
    reader_is_gone: bool,
}

impl Output {
    /// Output to `writer`; with `json` it is one document instead of text.
    pub fn new(writer: impl Write + Send + 'static, json: bool) -> Self {
        Self { json, width: None, sink: Mutex::new(Sink { writer: Box::new(writer), reader_is_gone: false }) }
    }

    /// Output that is kept in memory, for tests.
    pub fn captured(json: bool) -> (Self, Captured) {
        let captured = Captured::default();
        (Self::new(captured.clone(), json), captured)
    }

    /// The same output with tables that are at most so many columns wide.
    #[must_use]
    pub fn with_width(mut self, width: Option<u16>) -> Self {
        self.width = width;
        self
    }

    /// Whether the user asked for JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one document, an object, and a line's end; adds `"format"` to it, the version of the documents' contract
    /// (`docs/JSON.md`). A program calls it once.
    pub fn json(&self, document: &impl Serialize) -> anyhow::Result<()> {
        let document = Versioned { format: JSON_FORMAT, document };
        let mut text = serde_json::to_vec_pretty(&document).context("render JSON")?;
        text.push(b'\n');
        self.write(&text)
    }

    /// Writes a line for people; nothing when JSON was asked for.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { self.write(format!("{text}\n").as_bytes()) }
    }

    /// Writes bytes that are the program's data themselves, whatever they are. Not to be mixed with [`Output::json`].
    pub fn bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(bytes)
    }

    /// Writes a table for people; nothing when JSON was asked for. Columns of numbers, with or without a unit, stand
    /// to the right.
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { self.write(render(header, rows, self.width).as_bytes()) }
    }

    fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if sink.reader_is_gone {
            return Ok(());
        }
        match sink.writer.write_all(bytes).and_then(|()| sink.writer.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => sink.reader_is_gone = true,
            result => result.context("write to standard output")?,
        }
        Ok(())
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).field("width", &self.width).finish_non_exhaustive()
    }
}

fn render(header: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    // Names and labels are somebody else's: they neither break a line nor speak to a terminal.
    let cells = rows.iter().map(|row| row.iter().map(|cell| single_line(cell)).collect::<Vec<_>>());
    table.load_style(comfy_table::presets::NOTHING).set_header(header).add_rows(cells);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(index != 0), 1));
        if are_numbers(rows.iter().filter_map(|row| row.get(index))) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn are_numbers<'a>(cells: impl Iterator<Item = &'a String>) -> bool {
    let mut filled = cells.filter(|cell| !cell.is_empty() && *cell != "-").peekable();
    filled.peek().is_some() && filled.all(|cell| is_number(cell))
}

/// Digits with a sign, a point or commas, perhaps followed by one word such as `MB` or `%`.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let unit = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | ','));
    unsigned.starts_with(|c: char| c.is_ascii_digit())
        && unit.strip_prefix(' ').unwrap_or(unit).chars().all(|c| c.is_alphabetic() || matches!(c, '%' | '/'))
}

/// What an [`Output`] wrote into memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    #[test]
    fn a_table_is_plain_and_numbers_stand_to_the_right() {
        let (output, captured) = Output::captured(false);
        let rows = rows(&[
            &["backup_20261120_031500", "9.5 MB", "2026-11-20", "7"],
            &["backup_20261121_031500", "120 kB", "2026-11-21", "-"],
        ]);
        output.table(&["ID", "SIZE", "DAY", "FILES"], &rows).unwrap();
        let expected = "\
ID                        SIZE  DAY         FILES
backup_20261120_031500  9.5 MB  2026-11-20      7
backup_20261121_031500  120 kB  2026-11-21      -
";
        assert_eq!(captured.text(), expected);
    }

    #[test]
    fn a_table_without_rows_has_its_header() {
        let (output, captured) = Output::captured(false);
        output.table(&["ID", "SIZE"], &[]).unwrap();
        assert_eq!(captured.text(), "ID  SIZE\n");
    }

    #[test]
    fn a_table_fits_a_narrow_window() {
        let (output, captured) = Output::captured(false);
        let rows = rows(&[&["backup_20261120_031500", "a long reason why this one is kept for ever and a day"]]);
        output.with_width(Some(40)).table(&["ID", "REASON"], &rows).unwrap();
        assert!(captured.text().lines().all(|line| line.len() <= 40), "{}", captured.text());
        assert!(captured.text().lines().count() > 2);
    }

    #[rstest]
    #[case("7", true)]
    #[case("-1.5", true)]
    #[case("1,234", true)]
    #[case("16 MB", true)]
    #[case("16MB/s", true)]
    #[case("85%", true)]
    #[case("0/16B3748", false)]
    #[case("2026-11-20", false)]
    #[case("1m 20s", false)]
    #[case("MB", false)]
    #[case("", false)]
    fn numbers(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_number(text), expected);
    }

    #[test]
    fn json_is_one_document_and_silences_text() {
        let (output, captured) = Output::captured(true);
        output.line("hello").unwrap();
        output.table(&["A"], &rows(&[&["1"]])).unwrap();
        output.json(&serde_json::json!({"id": 1})).unwrap();
        assert_eq!(captured.text(), "{\n  \"format\": 1,\n  \"id\": 1\n}\n");
    }

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_stops_nothing() {
        let output = Output::new(Failing(io::ErrorKind::BrokenPipe), false);
        assert!(output.line("one").is_ok() && output.line("two").is_ok());
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let output = Output::new(Failing(io::ErrorKind::StorageFull), false);
        assert!(output.line("one").is_err());
    }
}
