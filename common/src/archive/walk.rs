//! A walk through the WAL along a route: segment after segment, as a stream, into a reader of records.

use std::io::{self, Read};
use std::ops::ControlFlow;

use anyhow::Context as _;

use crate::pg::wal_reader::{Event, RecordReader, WalEnd};
use crate::pg::{Lsn, WalSegmentName};
use crate::repo::chain::Route;
use crate::report::{Cancel, Progress};

/// How much is read at a time; a cancellation is seen this often.
const CHUNK_BYTES: usize = 256 << 10;

/// Gives the plain bytes of a segment, or `None` when it is nowhere; see [`super::moments::reader`].
pub type Source<'a> = dyn FnMut(WalSegmentName) -> anyhow::Result<Option<Box<dyn Read + Send>>> + 'a;

/// Which way a walk goes.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Along this route,
    pub route: &'a Route,
    /// from the segment with this position, which the reader begins at,
    pub from: Lsn,
    /// up to the segment with this one, or as far as there is WAL.
    pub until: Option<Lsn>,
}

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All segments were read.
    Until,
    /// This one is nowhere to be had.
    Missing(WalSegmentName),
    /// In this one the log ends, for this reason.
    Invalid(WalSegmentName, WalEnd),
    /// The consumer wanted no more.
    Broken,
}

/// Reads the segments of the stretch and hands on what the reader tells. Memory is constant.
pub fn along(
    stretch: Stretch<'_>,
    source: &mut Source<'_>,
    reader: &mut RecordReader,
    cancel: &Cancel,
    progress: &dyn Progress,
    each: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> anyhow::Result<Ending> {
    let size = stretch.route.segment_size();
    let mut buffer = vec![0; CHUNK_BYTES];
    for name in stretch.route.segments(stretch.from, stretch.until.unwrap_or(Lsn(u64::MAX))) {
        let mut chunk = |bytes: &[u8]| {
            cancel.check()?;
            progress.advance(bytes.len() as u64);
            Ok(reader.feed_all(bytes, &mut *each))
        };
        let read = source(name).and_then(|segment| match segment {
            None => Ok(None),
            Some(segment) => for_each_chunk(segment, size.bytes(), &mut buffer, &mut chunk).map(Some),
        });
        match read.with_context(|| format!("read WAL segment {name}"))? {
            None => return Ok(Ending::Missing(name)),
            Some(ControlFlow::Continue(())) => {}
            Some(ControlFlow::Break(())) => {
                return Ok(reader.end().map_or(Ending::Broken, |end| Ending::Invalid(name, end)));
            }
        }
    }
    Ok(Ending::Until)
}

/// Hands the `size` bytes of a segment on in chunks.
fn for_each_chunk(
    segment: impl Read,
    size: u64,
    buffer: &mut [u8],
    act: &mut impl FnMut(&[u8]) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<ControlFlow<()>> {
    let mut segment = segment.take(size);
    let mut seen = 0;
    loop {
        let count = match segment.read(buffer) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        seen += count as u64;
        match buffer.get(..count).unwrap_or_default() {
            [] if seen == size => return Ok(ControlFlow::Continue(())),
            [] => anyhow::bail!("it has {seen} bytes, a segment of this cluster has {size}"),
            chunk => {
                if act(chunk)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }
}
