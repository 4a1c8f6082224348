//! A backup with contents of the test's choosing, and sizes and digests that agree with them.
//!
//! Flipped bits are found by digests. What is left for a reader to notice is an entry that is bad in itself, which
//! only somebody who writes the digests anew can make. Records and lines are JSON values here, not the program's
//! types: they can say what those refuse to hold.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use common::codec::{Codec, Compression, Digest, Encoder};
use common::repo::part::FRAME_BYTES;
use serde_json::{Value, json};

use crate::Repo;

/// One backup, compressed with Zstandard, on its way to be another one. Nothing is written before [`Forge::write`].
#[derive(Debug)]
pub struct Forge {
    repo: Repo,
    id: String,
    /// The body of the commit record.
    pub record: Value,
    /// The lines of the index.
    pub index: Vec<Value>,
}

impl Forge {
    /// Reads a backup as it is.
    pub fn open(repo: &Repo, id: &str) -> Result<Self> {
        let record = body(&std::fs::read(repo.backup_object(id, "backup.json")?)?)?;
        let lines = repo.unpack(&repo.backup_object(id, "index.jsonl")?)?;
        let index = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let index = index.map(serde_json::from_slice).collect::<Result<_, _>>().context("read an index")?;
        Ok(Self { repo: repo.clone(), id: id.to_owned(), record, index })
    }

    /// The line of the file at `path`, to be changed.
    pub fn file(&mut self, path: &str) -> Result<&mut Value> {
        let lines = self.index.iter_mut().filter_map(|line| line.get_mut("file"));
        lines
            .into_iter()
            .find(|file| file.get("path").is_some_and(|found| found == path))
            .with_context(|| format!("no {path} in the index"))
    }

    /// The tar stream of a part.
    pub fn part(&self, number: u64) -> Result<Vec<u8>> {
        self.repo.unpack(&self.object(&part_name(number))?)
    }

    /// Puts another tar stream in a part's place.
    pub fn set_part(&mut self, number: u64, plain: &[u8]) -> Result<()> {
        let (mut stored, mut sizes) = (Vec::new(), Vec::new());
        for piece in plain.chunks(FRAME_BYTES) {
            let frame = compressed(piece)?;
            sizes.push((frame.len(), piece.len()));
            stored.extend(frame);
        }
        stored.extend(seek_table(&sizes)?);
        self.repo.replace(&self.object(&part_name(number))?, &stored)?;
        let parts = self.record.get_mut("parts").and_then(Value::as_array_mut).context("a record has parts")?;
        let part = parts
            .iter_mut()
            .find(|part| part.get("number").is_some_and(|found| *found == number))
            .context("no part of this number")?;
        *part = json!({
            "number": number, "plain_bytes": plain.len(), "stored_bytes": stored.len(),
            "stored_sha256": Digest::of(&stored),
        });
        let tables = self.index.iter_mut().filter_map(|line| line.get_mut("frames"));
        let table = tables
            .into_iter()
            .find(|table| table.get("part").is_some_and(|found| *found == number))
            .context("no frames of this part")?;
        let frames: Vec<usize> = sizes.iter().map(|(stored, _)| *stored).collect();
        *table = json!({ "part": number, "plain_bytes": plain.len(), "frames": frames });
        Ok(())
    }

    /// Writes the index and the record, which agree.
    pub fn write(&mut self) -> Result<()> {
        let mut lines = Vec::new();
        for line in &self.index {
            serde_json::to_writer(&mut lines, line)?;
            lines.push(b'\n');
        }
        self.write_object("index", "index.jsonl.zst", &compressed(&lines)?, &lines)
    }

    /// Writes these stored bytes as an object (`index`, `manifest` or `config` in the record), which unpacks to `plain`,
    /// and the record.
    pub fn write_object(&mut self, field: &str, name: &str, stored: &[u8], plain: &[u8]) -> Result<()> {
        self.repo.replace(&self.object(name)?, stored)?;
        let object = json!({
            "plain_bytes": plain.len(), "stored_bytes": stored.len(),
            "stored_sha256": Digest::of(stored), "sha256": Digest::of(plain),
        });
        self.record.as_object_mut().context("a record is an object")?.insert(field.to_owned(), object);
        self.write_record()
    }

    /// Writes the record alone.
    pub fn write_record(&self) -> Result<()> {
        self.repo.replace(&self.object("backup.json")?, &sealed("backup", &self.record))
    }

    fn object(&self, name: &str) -> Result<PathBuf> {
        Ok(self.repo.backup_object(&self.id, "backup.json")?.with_file_name(name))
    }
}

fn part_name(number: u64) -> String {
    format!("part-{number:05}.tar.zst")
}

/// The body of a record in its envelope.
pub fn body(record: &[u8]) -> Result<Value> {
    let mut envelope: Value = serde_json::from_slice(record).context("read a record")?;
    Ok(envelope.get_mut("record").context("no record in the envelope")?.take())
}

/// A record of this kind in an envelope of format 1, with the digest that belongs to it.
pub fn sealed(kind: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let sha256 = Digest::of(body.as_bytes());
    format!("{{\"format\":1,\"kind\":\"{kind}\",\"sha256\":\"{sha256}\",\"record\":{body}}}\n").into_bytes()
}

/// One frame of Zstandard.
pub fn compressed(plain: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = Encoder::with_size_hint(Vec::new(), Compression::usual(Codec::Zstd), plain.len() as u64)?;
    encoder.write_all(plain)?;
    Ok(encoder.finish()?)
}

/// As `docs/FORMAT.md` has it; from the stored and the plain size of each frame.
fn seek_table(sizes: &[(usize, usize)]) -> Result<Vec<u8>> {
    let words = [0x184D_2A5E, sizes.len() * 8 + 9].into_iter();
    let words = words.chain(sizes.iter().flat_map(|(stored, plain)| [*stored, *plain])).chain([sizes.len()]);
    let mut table = Vec::new();
    for word in words {
        table.extend(u32::try_from(word)?.to_le_bytes());
    }
    table.push(0);
    table.extend(0x8F92_EAB1_u32.to_le_bytes());
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::repo::envelope;
    use common::repo::records::RepositoryRecord;

    #[test]
    fn a_forged_record_opens() {
        let body = json!({ "id": "0f", "created": "2026-11-20T15:42:12Z" });
        let record: RepositoryRecord = envelope::open(&sealed("repository", &body)).unwrap();
        assert_eq!(record.id, "0f");
        assert!(envelope::open::<RepositoryRecord>(&sealed("cluster", &body)).is_err());
    }
}
