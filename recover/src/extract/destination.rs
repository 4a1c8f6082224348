//! Where the extract goes, and where the scratch cluster lies meanwhile: neither may be there, or be anybody's.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::Context;
use common::report::Advice;
use common::restore::scratch::Folder;
use common::sys::durable::{self, TemporaryFile};

use crate::cli::ExtractArgs;
use crate::facts::Facts;
use crate::steps::check::writable;

/// Where large temporary files may lie when nobody says.
const LAST_RESORT: &str = "/var/tmp";

/// How much is copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Where the extract goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// To the standard output.
    Standard,
    /// To a file.
    File(PathBuf),
}

impl Output {
    /// What the command line asks for; refuses a file that is there.
    pub(super) fn of(args: &ExtractArgs, ctx: &Context) -> anyhow::Result<Self> {
        if args.output.as_os_str() == "-" {
            anyhow::ensure!(
                !ctx.output.is_json(),
                Advice::usage("the extract and the document cannot both go to the standard output")
                    .hint("name a file with --output FILE, or leave --json out")
            );
            return Ok(Self::Standard);
        }
        let file = ctx.environment.absolute(&args.output);
        anyhow::ensure!(file.file_name().is_some(), Advice::usage(format!("{} is no name of a file", file.display())));
        refuse_existing(&file)?;
        let folder = parent(&file);
        let resolved = match folder.canonicalize() {
            Err(err) if err.kind() == ErrorKind::NotFound => {
                return Err(Advice::usage(format!("the folder {} is not there", folder.display()))
                    .hint("make it, or name a file in another folder with --output")
                    .into());
            }
            resolved => resolved.with_context(|| format!("find {}", folder.display()))?,
        };
        Ok(Self::File(file.file_name().map_or(file.clone(), |name| resolved.join(name))))
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Standard => "the standard output".to_owned(),
            Self::File(file) => file.display().to_string(),
        }
    }

    /// The folder that is written into.
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Standard => None,
            Self::File(file) => Some(parent(file)),
        }
    }

    /// A file for what is written, under a name that tells that it is not whole, readable by this user alone.
    pub(super) fn begin(&self, scratch: &Folder) -> anyhow::Result<TemporaryFile> {
        let folder = self.folder().unwrap_or(scratch.path());
        let path = durable::temporary_path(folder);
        scratch.note_output(&path)?;
        TemporaryFile::create(&path, 0o600).with_context(|| format!("make a file in {}", folder.display()))
    }

    /// Gives what was written its name, durably, or writes it out.
    pub(super) fn finish(&self, written: TemporaryFile, ctx: &Context) -> anyhow::Result<()> {
        let file = match self {
            Self::Standard => return copy_out(&written, ctx),
            Self::File(file) => file,
        };
        let naming = || format!("write {}", file.display());
        if !written.publish_new(file).with_context(naming)? {
            refuse_existing(file)?;
        }
        Ok(())
    }
}

fn refuse_existing(file: &Path) -> Result<(), Advice> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Err(Advice::refused(format!("{} is there already", file.display()))
            .hint("name a file that is not there yet, or move that one away")),
        Err(_) => Ok(()),
    }
}

fn copy_out(written: &TemporaryFile, ctx: &Context) -> anyhow::Result<()> {
    let reading = || format!("read {}", written.path().display());
    let mut source = std::fs::File::open(written.path()).with_context(reading)?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        ctx.cancel.check()?;
        let count = source.read(&mut buffer).with_context(reading)?;
        match buffer.get(..count).unwrap_or_default() {
            [] => return Ok(()),
            chunk => ctx.output.bytes(chunk)?,
        }
    }
}

/// The folder in which the scratch cluster gets a folder of its own: the one that is named, else the one for temporary
/// files, else where the extract goes, since that must have room too.
pub(super) fn base(args: &ExtractArgs, output: &Output, ctx: &Context) -> anyhow::Result<PathBuf> {
    let named = args.scratch.as_deref().or_else(|| ctx.environment.get("TMPDIR").map(Path::new));
    let path = match (named, output.folder()) {
        (Some(named), _) => ctx.environment.absolute(named),
        (None, Some(folder)) => folder.to_path_buf(),
        (None, None) => PathBuf::from(LAST_RESORT),
    };
    let found = path.canonicalize().with_context(|| {
        Advice::usage(format!("the scratch cluster cannot lie in {}", path.display()))
            .hint("name a directory that is there with --scratch DIR")
    })?;
    anyhow::ensure!(found.is_dir(), Advice::usage(format!("{} is no directory", found.display())));
    Ok(found)
}

/// Refuses places in which something of production lies, and those that cannot be written into.
pub(super) fn guard(base: &Path, output: &Output, facts: &Facts, ctx: &Context) -> anyhow::Result<()> {
    let theirs = production(facts, ctx);
    for (place, option) in [(Some(base), "--scratch"), (output.folder(), "--output")] {
        let Some(place) = place else { continue };
        if let Some(taken) = theirs.iter().find(|taken| place.starts_with(taken)) {
            return Err(Advice::refused(format!("{} lies in {}", place.display(), taken.display()))
                .hint(format!("name a place outside it with {option}"))
                .into());
        }
        writable(place, &format!("name another place with {option}"))?;
    }
    Ok(())
}

/// The data directories, tablespaces and repositories of this host, as far as they are known and there.
fn production(facts: &Facts, ctx: &Context) -> Vec<PathBuf> {
    let origin = facts.origin.iter().map(|origin| origin.pgdata.clone());
    let own = facts.backups.iter().filter(|backup| backup.source.host == facts.host);
    let recorded = own.flat_map(|backup| {
        let locations = backup.tablespaces.iter().map(|tablespace| tablespace.location.clone());
        std::iter::once(backup.source.data_directory.clone()).chain(locations)
    });
    let repositories = ctx.settings.repositories.iter().map(|repository| PathBuf::from(&repository.url.value));
    origin.chain(recorded).chain(repositories).filter_map(|path| path.canonicalize().ok()).collect()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
