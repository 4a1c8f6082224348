//! Reads LZ4 frames to a provable end.
//!
//! `lz4_flex` decodes one frame well, but takes a stream that stops between two blocks, or right after a frame's
//! magic number, for one that ended (it answers "no more bytes"). [`Framed`] follows the frame format beside it and
//! knows whether the end was reached; [`Decoder`] goes on to the next frame until the source is exhausted at one.
//!
//! The format: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>.

use std::io::{self, BufRead, Read};

use lz4_flex::frame::FrameDecoder;

const MAGIC: u32 = 0x184D_2204;
const SKIPPABLE: u32 = 0x184D_2A50;
const SKIPPABLE_MASK: u32 = 0xFFFF_FFF0;
const FLAG_BLOCK_CHECKSUM: u8 = 1 << 4;
const FLAG_CONTENT_SIZE: u8 = 1 << 3;
const FLAG_CONTENT_CHECKSUM: u8 = 1 << 2;
const FLAG_DICTIONARY: u8 = 1;
const CHECKSUM_LENGTH: u64 = 4;
/// Magic number, two descriptor bytes, content size, dictionary id, header checksum.
const HEADER_LENGTH_MAX: usize = 4 + 2 + 8 + 4 + 1;

fn damaged(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Every frame of the source, one after the other.
pub(super) struct Decoder<R: BufRead> {
    /// `None` only after an error in the middle of a change of frames.
    frame: Option<FrameDecoder<Framed<R>>>,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(source: R) -> Self {
        Self { frame: Some(FrameDecoder::new(Framed::new(source))) }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let frame = self.frame.as_mut().ok_or_else(|| damaged("read after an error"))?;
            let count = frame.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            // Nothing came: an empty block, the end of a frame, or the end of everything.
            if frame.get_ref().is_between_frames() {
                if frame.get_mut().is_at_end()? {
                    return Ok(0);
                }
                // A fresh decoder for each frame: the next one may have another block size.
                self.frame = self.frame.take().map(|frame| FrameDecoder::new(frame.into_inner()));
            }
        }
    }
}

/// Hands the source's bytes on unchanged, but for skippable frames, and follows where in a frame they end.
struct Framed<R> {
    source: R,
    /// Bytes of a header that were read to be understood and are not handed on yet.
    header: [u8; HEADER_LENGTH_MAX],
    header_length: usize,
    header_handed: usize,
    /// Bytes of the current block, or of the frame's last checksum, that are not handed on yet.
    body: u64,
    in_frame: bool,
    block_trailer: u64,
    frame_trailer: u64,
}

impl<R: BufRead> Framed<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            header: [0; HEADER_LENGTH_MAX],
            header_length: 0,
            header_handed: 0,
            body: 0,
            in_frame: false,
            block_trailer: 0,
            frame_trailer: 0,
        }
    }

    fn is_between_frames(&self) -> bool {
        !self.in_frame && self.body == 0 && self.header_handed == self.header_length
    }

    /// Whether nothing but skippable frames follows; to be asked between frames only.
    fn is_at_end(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(true);
        }
        self.next_frame().map(|found| !found)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.source.read_exact(&mut bytes) {
            // Not `UnexpectedEof`: that is what lz4_flex takes for an end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged("the data ends within a frame")),
            Err(error) => Err(error),
            Ok(()) => {
                let end = self.header_length + N;
                if let Some(place) = self.header.get_mut(self.header_length..end) {
                    place.copy_from_slice(&bytes);
                    self.header_length = end;
                }
                Ok(bytes)
            }
        }
    }

    fn forget_header(&mut self) {
        (self.header_length, self.header_handed) = (0, 0);
    }

    /// Reads the header of the next frame that is not skippable; `false` at the end of the source.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            self.forget_header();
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let magic = u32::from_le_bytes(self.take()?);
            if magic & SKIPPABLE_MASK == SKIPPABLE {
                let length = u64::from(u32::from_le_bytes(self.take()?));
                let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
                if skipped < length {
                    return Err(damaged("the data ends within a skippable frame"));
                }
                continue;
            }
            if magic != MAGIC {
                return Err(damaged("what follows is no LZ4 frame"));
            }
            let [flags, _sizes] = self.take()?;
            if flags & FLAG_CONTENT_SIZE != 0 {
                self.take::<8>()?;
            }
            if flags & FLAG_DICTIONARY != 0 {
                self.take::<4>()?;
            }
            self.take::<1>()?;
            let length_if = |flag: u8| if flags & flag == 0 { 0 } else { CHECKSUM_LENGTH };
            self.block_trailer = length_if(FLAG_BLOCK_CHECKSUM);
            self.frame_trailer = length_if(FLAG_CONTENT_CHECKSUM);
            self.in_frame = true;
            return Ok(true);
        }
    }

    fn next_block(&mut self) -> io::Result<()> {
        self.forget_header();
        match u32::from_le_bytes(self.take()?) {
            0 => {
                self.body = self.frame_trailer;
                self.in_frame = false;
            }
            // The highest bit says that the block is stored as it is.
            size => self.body = u64::from(size & 0x7FFF_FFFF) + self.block_trailer,
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Framed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let mut header = self.header.get(self.header_handed..self.header_length).unwrap_or_default();
            if !header.is_empty() {
                let count = header.read(buffer)?;
                self.header_handed += count;
                return Ok(count);
            }
            if self.body > 0 {
                let count = self.source.by_ref().take(self.body).read(buffer)?;
                if count == 0 {
                    return Err(damaged("the data ends within a block"));
                }
                self.body -= count as u64;
                return Ok(count);
            }
            if self.in_frame {
                self.next_block()?;
            } else if !self.next_frame()? {
                return Ok(0);
            }
        }
    }
}
