//! What people write: the configuration file, connection strings, libpq's files.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::app::{CommonArgs, Environment, Settings};
use common::report::{Advice, ExitClass};
use common::server::{Conninfo, Sources, resolve};

/// A password that occurs in no input by chance.
const SECRET: &str = "Sesame-9b1f";

/// The configuration file.
pub fn configuration(bytes: &[u8]) {
    with_file(bytes, |path| {
        let args = CommonArgs { config: Some(path.to_owned()), ..CommonArgs::default() };
        match Settings::load(&args, &Environment::default().in_directory("/home/fuzz")) {
            Ok(settings) => check_settings(&settings),
            Err(advice) => check_advice(&advice),
        }
    });
}

fn check_settings(settings: &Settings) {
    let urls: Vec<_> = settings.repositories.iter().map(|repository| &repository.url.value).collect();
    assert!(urls.iter().all(|url| Path::new(url).is_absolute()), "{urls:?}");
    assert_eq!(urls.iter().collect::<BTreeSet<_>>().len(), urls.len(), "{urls:?}");
    assert!(settings.pgdata.iter().all(|path| path.value.is_absolute()));
    assert!(settings.bin_directory.iter().all(|path| path.is_absolute()));
    assert!(settings.jobs.is_none_or(|jobs| (1..=256).contains(&jobs)));
    assert_ne!(settings.keep_last, Some(0));
    for repository in &settings.repositories {
        assert_eq!(repository.compression.to_string().parse(), Ok(repository.compression));
    }
}

/// A complaint is one line that a terminal can show.
fn check_advice(advice: &Advice) {
    assert!(matches!(advice.class, ExitClass::Usage | ExitClass::Refused), "{advice:?}");
    assert!(!advice.message.contains('\n') && advice.message.len() < 4096, "{}", advice.message);
}

/// A connection string.
pub fn connection(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(mut info) = Conninfo::parse(&text) else { return };
    // What is printed reads back, but for secrets.
    let shown = info.to_string();
    match Conninfo::parse(&shown) {
        Ok(again) => assert_eq!(again.to_string(), shown),
        Err(error) => unreachable!("{error} in {shown}"),
    }
    if let Ok(endpoints) = info.endpoints() {
        assert!(!endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.port > 0));
    }
    assert!(info.set("password", SECRET).is_ok());
    let endpoints = info.endpoints().unwrap_or_default();
    assert!(!format!("{info} {info:?} {endpoints:?}").contains(SECRET));
    // Files that the input names are not read.
    for keyword in ["service", "servicefile", "passfile"] {
        assert!(info.set(keyword, "").is_ok());
    }
    match resolve(&sources(info.to_string())) {
        Ok(complete) => assert!(complete.user().is_some() && complete.dbname().is_some()),
        Err(error) => assert!(!format!("{error:#}").contains(SECRET)),
    }
}

/// The password file, asked for the password of host `h`, port 1, database `d`, user `u`; and read as libpq reads it.
pub fn passfile(bytes: &[u8]) {
    with_file(bytes, |path| {
        let text = format!("host=h port=1 dbname=d user=u passfile={}", path.display());
        let endpoints = resolve(&sources(text)).and_then(|info| info.endpoints()).unwrap_or_default();
        let found = endpoints.first().and_then(|endpoint| endpoint.password.as_ref());
        let contents = String::from_utf8_lossy(bytes);
        assert_eq!(found.map(common::server::Secret::expose), libpq_password(&contents).as_deref(), "{contents:?}");
    });
}

/// The password of the first line that matches, by another road than the parser's: fields first, then escapes.
fn libpq_password(text: &str) -> Option<String> {
    let wanted = ["h", "1", "d", "u"];
    let matching = |line: &str| {
        let fields = bare_fields(line);
        let (password, patterns) = (fields.get(4)?, fields.get(..4)?);
        let fits = patterns.iter().zip(wanted).all(|(field, wanted)| field == "*" || unescaped(field) == wanted);
        fits.then(|| unescaped(password))
    };
    text.lines().filter(|line| !line.starts_with('#')).find_map(matching).filter(|password| !password.is_empty())
}

/// The line cut at its bare colons.
fn bare_fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut escaped = false;
    for c in line.chars() {
        if c == ':' && !escaped {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            field.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    fields
}

fn unescaped(field: &str) -> String {
    let mut chars = field.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    plain
}

/// The service file, asked for service `a`.
pub fn service(bytes: &[u8]) {
    with_file(bytes, |path| {
        let text = format!("service=a passfile='' servicefile={}", path.display());
        match resolve(&sources(text)) {
            Ok(info) => assert!(info.endpoints().is_ok_and(|endpoints| !endpoints.is_empty())),
            Err(error) => assert!(error.chain().all(|cause| !cause.to_string().is_empty())),
        }
    });
}

fn sources(configured: String) -> Sources<'static> {
    Sources {
        environment: &|_| None,
        dbname: None,
        host: None,
        port: None,
        user: None,
        configured: Some(configured),
        default_user: "fuzz".to_owned(),
        home: PathBuf::from("/nonexistent"),
    }
}

/// Calls `act` with the path of a file of these bytes, which has no name that could be left behind.
fn with_file(bytes: &[u8], act: impl FnOnce(&Path)) {
    let make = || {
        let mut file = tempfile::tempfile()?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        Ok(file)
    };
    let file: std::io::Result<File> = make();
    match file {
        Ok(file) => act(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))),
        Err(error) => unreachable!("{error} while a temporary file is written"),
    }
}
