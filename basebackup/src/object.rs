//! The objects of one backup on their way into the repository.

use std::io::{self, BufWriter, Write};

use anyhow::Context as _;
use common::archive::Repository;
use common::codec::{Codec, Compression, Encoder, HashingWriter};
use common::repo::BackupId;
use common::repo::records::ObjectRecord;
use common::store::{Key, Published, Upload};

/// Where the objects of a backup go. Shared by all workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The repository.
    pub(crate) repository: &'a Repository,
    /// The backup.
    pub(crate) id: BackupId,
}

impl<'a> Target<'a> {
    /// How the objects are compressed.
    pub(crate) fn compression(&self) -> Compression {
        self.repository.compression()
    }

    /// The codec that names the objects.
    pub(crate) fn codec(&self) -> Codec {
        self.compression().codec
    }

    /// Starts an object; nothing of it is visible before [`Object::publish`].
    pub(crate) fn begin(&self, name: &str) -> anyhow::Result<Object<'a>> {
        let key = self.repository.layout().backup_object(self.id, name)?;
        let upload = self.repository.store().begin(&key)?;
        Ok(Object { repository: self.repository, key, upload })
    }

    /// Writes a small object whole.
    pub(crate) fn put(&self, name: &str, plain: &[u8]) -> anyhow::Result<ObjectRecord> {
        let key = self.repository.layout().backup_object(self.id, name)?;
        self.repository.put_object(&key, plain)
    }
}

/// An object that is being written.
pub(crate) struct Object<'a> {
    repository: &'a Repository,
    key: Key,
    upload: Box<dyn Upload>,
}

impl Object<'_> {
    /// What is being written, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("{} in {}", self.key, self.repository.describe())
    }

    /// Makes the object visible and durable. The name was the backup's alone, so one that exists is somebody's error.
    pub(crate) fn publish(self) -> anyhow::Result<()> {
        match self.upload.publish_new()? {
            Published::Created => Ok(()),
            Published::Exists => anyhow::bail!("{} exists already, written by somebody else", self.key),
        }
    }
}

impl Write for Object<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.upload.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upload.flush()
    }
}

/// A compressed object that is written as a stream and has an [`ObjectRecord`].
pub(crate) struct ObjectStream<'a> {
    what: String,
    sink: BufWriter<HashingWriter<Encoder<HashingWriter<Object<'a>>>>>,
}

impl<'a> ObjectStream<'a> {
    /// Starts the object of this name.
    pub(crate) fn begin(target: Target<'a>, name: &str) -> anyhow::Result<Self> {
        let object = target.begin(name)?;
        let what = object.describe();
        let encoder = Encoder::new(HashingWriter::new(object), target.compression())?;
        Ok(Self { what, sink: BufWriter::new(HashingWriter::new(encoder)) })
    }

    /// Completes and publishes the object.
    pub(crate) fn finish(self) -> anyhow::Result<ObjectRecord> {
        let writing = || format!("write {}", self.what);
        let hashing = self.sink.into_inner().map_err(io::IntoInnerError::into_error).with_context(writing)?;
        let (encoder, plain_bytes, sha256) = hashing.finish();
        let (object, stored_bytes, stored_sha256) = encoder.finish().with_context(writing)?.finish();
        object.publish()?;
        Ok(ObjectRecord { plain_bytes, stored_bytes, stored_sha256, sha256 })
    }
}

impl Write for ObjectStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
