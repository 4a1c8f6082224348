//! Connection URIs: `postgresql://[user[:password]@][host][:port][,…][/dbname][?name=value[&…]]`.
//!
//! As `conninfo_uri_parse_options` of `src/interfaces/libpq/fe-connect.c`: any part may be percent-encoded, which is
//! how a socket directory is written as a host; an IPv6 address stands in brackets. No message shows the URI itself,
//! because a password may be part of it.

use std::borrow::Cow;

use super::conninfo::{Conninfo, Unknown, unknown};
use crate::report::Advice;

/// The URI after its scheme, when it has one of libpq's.
pub(super) fn strip_prefix(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Reads what follows the scheme.
pub(super) fn parse(rest: &str) -> anyhow::Result<Conninfo> {
    let mut info = Conninfo::default();
    let rest = credentials(rest, &mut info)?;
    let rest = hosts(rest, &mut info)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, query),
        None => (rest, ""),
    };
    // An empty name is not stored: the environment may still say one.
    put(&mut info, "dbname", path.strip_prefix('/').unwrap_or(path))?;
    parameters(query, &mut info)?;
    Ok(info)
}

/// Stores user and password, and answers what follows them.
fn credentials<'a>(text: &'a str, info: &mut Conninfo) -> anyhow::Result<&'a str> {
    let Some((before, after)) = text.find(['@', '/']).and_then(|at| text.split_at_checked(at)) else { return Ok(text) };
    let Some(after) = after.strip_prefix('@') else { return Ok(text) };
    let (user, password) = before.split_once(':').unwrap_or((before, ""));
    put(info, "user", user)?;
    put(info, "password", password)?;
    Ok(after)
}

/// Stores the hosts and ports, and answers what follows them.
fn hosts<'a>(text: &'a str, info: &mut Conninfo) -> anyhow::Result<&'a str> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    let mut rest = text;
    loop {
        let host;
        (host, rest) = one_host(rest)?;
        hosts.push_str(host);
        if let Some(tail) = rest.strip_prefix(':') {
            let end = tail.find(['/', '?', ',']).unwrap_or(tail.len());
            let port;
            (port, rest) = tail.split_at(end);
            ports.push_str(port);
        }
        let Some(tail) = rest.strip_prefix(',') else { break };
        rest = tail;
        hosts.push(',');
        ports.push(',');
    }
    put(info, "host", &hosts)?;
    put(info, "port", &ports)?;
    Ok(rest)
}

/// A host name, an address, or an IPv6 address in brackets; and what follows it.
fn one_host(text: &str) -> anyhow::Result<(&str, &str)> {
    let Some(inner) = text.strip_prefix('[') else {
        return Ok(text.split_at(text.find([':', '/', '?', ',']).unwrap_or(text.len())));
    };
    let Some((address, after)) = inner.split_once(']') else {
        return Err(invalid("an IPv6 address has no closing bracket"));
    };
    if address.is_empty() {
        return Err(invalid("an IPv6 address is empty"));
    }
    if !after.is_empty() && !after.starts_with([':', '/', '?', ',']) {
        return Err(invalid("something other than a port, a path or another host follows an IPv6 address"));
    }
    Ok((address, after))
}

fn parameters(query: &str, info: &mut Conninfo) -> anyhow::Result<()> {
    for pair in query.split_terminator('&') {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(invalid("a parameter has no \"=\""));
        };
        let name = decode(name)?;
        if value.contains('=') {
            return Err(invalid(&format!("parameter {name} has more than one \"=\" (write %3D)")));
        }
        let value = decode(value)?;
        // As JDBC writes it.
        let (name, value) = match (&*name, &*value) {
            ("ssl", "true") => (Cow::Borrowed("sslmode"), Cow::Borrowed("require")),
            _ => (name, value),
        };
        info.store(&name, value.into_owned()).map_err(|Unknown| unknown(&name))?;
    }
    Ok(())
}

/// Stores a decoded value unless it is empty.
fn put(info: &mut Conninfo, keyword: &str, value: &str) -> anyhow::Result<()> {
    if !value.is_empty() {
        info.set(keyword, decode(value)?)?;
    }
    Ok(())
}

fn decode(text: &str) -> anyhow::Result<Cow<'_, str>> {
    let escapes_are_whole = text.split('%').skip(1).all(|part| {
        part.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00")
    });
    if !escapes_are_whole {
        return Err(invalid("\"%\" is not followed by two hexadecimal digits of a character other than NUL"));
    }
    percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| invalid("a percent-encoded part is not UTF-8"))
}

fn invalid(what: &str) -> anyhow::Error {
    Advice::usage(format!("invalid connection URI: {what}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn encode(text: &str) -> String {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    // Cases of src/interfaces/libpq/t/001_uri.pl, and more.
    #[rstest]
    #[case(
        "postgresql://uri-user:secret@host:12345/db",
        "dbname=db host=host password=******** port=12345 user=uri-user"
    )]
    #[case("postgresql://uri-user@host:12345/db", "dbname=db host=host port=12345 user=uri-user")]
    #[case("postgresql://host/db", "dbname=db host=host")]
    #[case("postgres://host", "host=host")]
    #[case("postgresql://", "")]
    #[case("postgresql://:12345/", "port=12345")]
    #[case("postgresql://uri-user@", "user=uri-user")]
    #[case("postgresql:///db?", "dbname=db")]
    #[case("postgresql://?host=h&port=1", "host=h port=1")]
    #[case("postgresql://host?user=u&password=", "host=host password=******** user=u")]
    #[case("postgresql://%68ost/", "host=host")]
    #[case("postgresql://[2001:db8::1234]:1/db", "dbname=db host=2001:db8::1234 port=1")]
    #[case("postgresql://[::1]", "host=::1")]
    #[case("postgresql://%2Fvar%2Frun%2Fpostgresql/db", "dbname=db host=/var/run/postgresql")]
    #[case("postgresql://a:1,b:2,[::1]/db", "dbname=db host=a,b,::1 port=1,2,")]
    #[case("postgresql://host/db?ssl=true", "dbname=db host=host sslmode=require")]
    #[case("postgresql://u@host/db%20name?options=-c%20a%3Db", "dbname='db name' host=host options='-c a=b' user=u")]
    #[case("postgresql://host/a@b", "dbname=a@b host=host")]
    fn reads(#[case] text: &str, #[case] printed: &str) {
        assert_eq!(Conninfo::parse(text).unwrap().to_string(), printed);
    }

    #[rstest]
    #[case("postgresql://host/db?u", "a parameter has no \"=\"")]
    #[case("postgresql://host/db?a=b=c", "parameter a has more than one")]
    #[case("postgresql://host/db?zzzz=x", "unknown connection parameter \"zzzz\"")]
    #[case("postgresql://host/%zz", "not followed by two hexadecimal digits")]
    #[case("postgresql://host/%1", "not followed by two hexadecimal digits")]
    #[case("postgresql://host/%00", "other than NUL")]
    #[case("postgresql://host/%ff", "not UTF-8")]
    #[case("postgresql://[::1", "no closing bracket")]
    #[case("postgresql://[]", "is empty")]
    #[case("postgresql://[::1]z", "something other than a port")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        let error = Conninfo::parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn decodes_a_password_and_shows_it_nowhere() {
        let info = Conninfo::parse("postgres://u:p%40ss@h").unwrap();
        assert_eq!(info.get("password"), Some("p@ss"));
        assert!(!Conninfo::parse("postgres://u:p%ss@h").unwrap_err().to_string().contains("p%ss"));
    }

    proptest! {
        #[test]
        fn encoded_parts_read_back(values: [String; 4], port: u16, application in ".{0,9}") {
            let keywords = ["user", "password", "host", "dbname"];
            let values = values.map(|value| value.replace('\0', ""));
            let [user, password, host, dbname] = values.each_ref().map(|value| encode(value));
            let application = application.replace('\0', "");
            let text = format!("postgresql://{user}:{password}@{host}:{port}/{dbname}?application_name={}", encode(&application));
            let info = Conninfo::parse(&text).unwrap();
            for (keyword, value) in keywords.into_iter().zip(&values) {
                prop_assert_eq!(info.get(keyword), Some(&value[..]).filter(|value| !value.is_empty()));
            }
            prop_assert_eq!(info.get("port"), Some(&port.to_string()[..]));
            prop_assert_eq!(info.get("application_name").unwrap_or_default(), application);
        }

        #[test]
        fn never_panics(text in ".*", likely in "[a\\[\\]:/?,@%0=&\u{e4}]{0,12}") {
            drop(Conninfo::parse(&format!("postgresql://{text}")));
            drop(Conninfo::parse(&format!("postgres://{likely}")));
        }
    }
}
