//! Connection parameters as typed values, and the refusal of those that can't be honoured.
//!
//! A parameter that only tunes is ignored where Holdfast has nothing to tune; one that protects the connection and is
//! not supported is an error: silence would claim a protection that is not there.

use std::time::Duration;

use anyhow::Context;

use super::conninfo::Conninfo;
use crate::report::Advice;

/// How long one attempt to connect may take when `connect_timeout` is not given; libpq would wait for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// `sslmode`, in ascending order of protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetSession {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// The parameters that decide how a session is opened.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    pub(super) sslmode: SslMode,
    pub(super) direct_tls: bool,
    pub(super) target: TargetSession,
    pub(super) channel_binding: tokio_postgres::config::ChannelBinding,
    /// For one attempt at one server; none is for ever.
    pub(super) timeout: Option<Duration>,
    pub(super) random_order: bool,
    pub(super) keepalives: bool,
    pub(super) keepalives_idle: Option<Duration>,
    pub(super) keepalives_interval: Option<Duration>,
    pub(super) keepalives_count: Option<u32>,
    pub(super) tcp_user_timeout: Option<Duration>,
}

impl Parameters {
    /// Reads them. It fails on a value that libpq would refuse and on a protection that is not supported.
    pub(super) fn of(info: &Conninfo) -> anyhow::Result<Self> {
        refuse_unsupported(info)?;
        let sslmode = sslmode(info)?;
        let direct_tls = choose(info, "sslnegotiation", &[("postgres", false), ("direct", true)])?;
        if direct_tls && sslmode < SslMode::Require {
            return Err(Advice::usage("sslnegotiation=direct needs sslmode=require or stronger").into());
        }
        Ok(Self {
            sslmode,
            direct_tls,
            target: target(info)?,
            channel_binding: {
                use tokio_postgres::config::ChannelBinding::{Disable, Prefer, Require};
                choose(info, "channel_binding", &[("prefer", Prefer), ("disable", Disable), ("require", Require)])?
            },
            timeout: match number(info, "connect_timeout")? {
                None => Some(CONNECT_TIMEOUT),
                Some(seconds) => u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs),
            },
            random_order: choose(info, "load_balance_hosts", &[("disable", false), ("random", true)])?,
            keepalives: number(info, "keepalives")? != Some(0),
            keepalives_idle: seconds(info, "keepalives_idle")?,
            keepalives_interval: seconds(info, "keepalives_interval")?,
            keepalives_count: number(info, "keepalives_count")?.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
            tcp_user_timeout: positive(info, "tcp_user_timeout")?.map(Duration::from_millis),
        })
    }
}

fn sslmode(info: &Conninfo) -> anyhow::Result<SslMode> {
    use SslMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    let system = info.get("sslrootcert") == Some("system");
    if system && info.get("sslmode").is_none() {
        return Ok(VerifyFull);
    }
    let modes = [
        ("prefer", Prefer),
        ("disable", Disable),
        ("allow", Allow),
        ("require", Require),
        ("verify-ca", VerifyCa),
        ("verify-full", VerifyFull),
    ];
    let mode = choose(info, "sslmode", &modes)?;
    if system && mode != VerifyFull {
        return Err(Advice::usage("sslrootcert=system needs sslmode=verify-full")
            .hint("anybody can get a certificate that the system trusts; only the host name tells servers apart")
            .into());
    }
    Ok(mode)
}

fn target(info: &Conninfo) -> anyhow::Result<TargetSession> {
    use TargetSession::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    let targets = [
        ("any", Any),
        ("read-write", ReadWrite),
        ("read-only", ReadOnly),
        ("primary", Primary),
        ("standby", Standby),
        ("prefer-standby", PreferStandby),
    ];
    choose(info, "target_session_attrs", &targets)
}

fn refuse_unsupported(info: &Conninfo) -> anyhow::Result<()> {
    let unsupported = [
        ("gssencmode", Some("require"), "GSSAPI encryption"),
        ("require_auth", None, "a choice of authentication methods"),
        ("requirepeer", None, "checking the server's operating-system user"),
        ("sslcertmode", Some("require"), "insisting on a client certificate"),
        ("sslcrldir", None, "a directory of certificate revocation lists"),
        ("sslpassword", None, "an encrypted client key"),
        ("replication", None, "a replication connection"),
        ("sslkeylogfile", None, "logging TLS keys"),
    ];
    for (keyword, only, what) in unsupported {
        match info.get(keyword) {
            Some("false" | "off" | "no" | "0") if keyword == "replication" => {}
            Some(value) if only.is_none_or(|only| only == value) => {
                return Err(Advice::usage(format!("{what} ({keyword}) is not supported")).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// One of the values that libpq knows; the first is the default.
fn choose<T: Copy>(info: &Conninfo, keyword: &str, choices: &[(&str, T)]) -> anyhow::Result<T> {
    let wanted = info.get(keyword).or(choices.first().map(|(name, _)| *name));
    choices.iter().find(|(name, _)| Some(*name) == wanted).map(|(_, value)| *value).with_context(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let message = format!("invalid {keyword} {:?}", wanted.unwrap_or_default());
        Advice::usage(message).hint(format!("one of {}", names.join(", ")))
    })
}

fn number(info: &Conninfo, keyword: &str) -> anyhow::Result<Option<i64>> {
    info.get(keyword)
        .map(|text| {
            text.trim().parse().with_context(|| Advice::usage(format!("invalid integer {text:?} for {keyword}")))
        })
        .transpose()
}

fn positive(info: &Conninfo, keyword: &str) -> anyhow::Result<Option<u64>> {
    Ok(number(info, keyword)?.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0))
}

fn seconds(info: &Conninfo, keyword: &str) -> anyhow::Result<Option<Duration>> {
    Ok(positive(info, keyword)?.map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::super::keyword::KEYWORDS;
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn of(text: &str) -> anyhow::Result<Parameters> {
        Parameters::of(&Conninfo::parse(text).unwrap())
    }

    #[rstest]
    #[case("", Some(30))]
    #[case("connect_timeout=5", Some(5))]
    #[case("connect_timeout=0", None)]
    #[case("connect_timeout=-1", None)]
    fn reads_the_timeout(#[case] text: &str, #[case] seconds: Option<u64>) {
        assert_eq!(of(text).unwrap().timeout, seconds.map(Duration::from_secs));
    }

    #[rstest]
    #[case("", SslMode::Prefer)]
    #[case("sslmode=verify-ca", SslMode::VerifyCa)]
    #[case("sslrootcert=system", SslMode::VerifyFull)]
    fn reads_the_mode(#[case] text: &str, #[case] mode: SslMode) {
        assert_eq!(of(text).unwrap().sslmode, mode);
    }

    #[rstest]
    #[case("sslmode=REQUIRE")]
    #[case("sslmode=require sslrootcert=system")]
    #[case("sslnegotiation=direct")]
    #[case("gssencmode=require")]
    #[case("require_auth=scram-sha-256")]
    #[case("replication=database")]
    #[case("connect_timeout=soon")]
    #[case("target_session_attrs=best")]
    fn refuses(#[case] text: &str) {
        assert!(of(text).is_err());
    }

    #[rstest]
    #[case("gssencmode=prefer replication=false")]
    #[case("sslnegotiation=direct sslmode=require")]
    fn accepts(#[case] text: &str) {
        assert!(of(text).is_ok());
    }

    proptest! {
        #[test]
        fn never_panics(values in proptest::collection::btree_map(0..KEYWORDS.len(), "-?[0-9]{1,20}|require|direct|system|verify-full|any|.{0,9}", 0..5)) {
            let mut info = Conninfo::default();
            for (at, value) in values {
                info.set(KEYWORDS[at].name, value).unwrap();
            }
            if let Ok(parameters) = Parameters::of(&info) {
                prop_assert_ne!(parameters.timeout, Some(Duration::ZERO));
                prop_assert!(!parameters.direct_tls || parameters.sslmode >= SslMode::Require);
            }
        }
    }
}
