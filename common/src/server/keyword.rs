//! The connection parameters that libpq knows, with their environment variables.
//!
//! The table follows `PQconninfoOptions` of `src/interfaces/libpq/fe-connect.c` (version 18). Holdfast accepts every
//! keyword, so that one service file or connection string serves it and `psql` alike; what it can't honour and must
//! not ignore is refused when connecting.

/// One connection parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyword {
    /// As written in a connection string.
    pub(super) name: &'static str,
    /// The environment variable that supplies it when nothing else does.
    pub(super) variable: Option<&'static str>,
    /// Whether its value must never be shown.
    pub(super) secret: bool,
}

const fn with_variable(name: &'static str, variable: &'static str) -> Keyword {
    Keyword { name, variable: Some(variable), secret: false }
}

const fn plain(name: &'static str) -> Keyword {
    Keyword { name, variable: None, secret: false }
}

const fn secret(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword { name, variable, secret: true }
}

/// Every keyword.
pub(super) const KEYWORDS: &[Keyword] = &[
    with_variable("service", "PGSERVICE"),
    with_variable("servicefile", "PGSERVICEFILE"),
    with_variable("user", "PGUSER"),
    secret("password", Some("PGPASSWORD")),
    with_variable("passfile", "PGPASSFILE"),
    with_variable("channel_binding", "PGCHANNELBINDING"),
    with_variable("connect_timeout", "PGCONNECT_TIMEOUT"),
    with_variable("dbname", "PGDATABASE"),
    with_variable("host", "PGHOST"),
    with_variable("hostaddr", "PGHOSTADDR"),
    with_variable("port", "PGPORT"),
    with_variable("client_encoding", "PGCLIENTENCODING"),
    with_variable("options", "PGOPTIONS"),
    with_variable("application_name", "PGAPPNAME"),
    plain("fallback_application_name"),
    plain("keepalives"),
    plain("keepalives_idle"),
    plain("keepalives_interval"),
    plain("keepalives_count"),
    plain("tcp_user_timeout"),
    with_variable("sslmode", "PGSSLMODE"),
    with_variable("sslnegotiation", "PGSSLNEGOTIATION"),
    with_variable("sslcompression", "PGSSLCOMPRESSION"),
    with_variable("sslcert", "PGSSLCERT"),
    with_variable("sslkey", "PGSSLKEY"),
    with_variable("sslcertmode", "PGSSLCERTMODE"),
    secret("sslpassword", None),
    with_variable("sslrootcert", "PGSSLROOTCERT"),
    with_variable("sslcrl", "PGSSLCRL"),
    with_variable("sslcrldir", "PGSSLCRLDIR"),
    with_variable("sslsni", "PGSSLSNI"),
    with_variable("requirepeer", "PGREQUIREPEER"),
    with_variable("require_auth", "PGREQUIREAUTH"),
    with_variable("min_protocol_version", "PGMINPROTOCOLVERSION"),
    with_variable("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    with_variable("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    with_variable("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    with_variable("gssencmode", "PGGSSENCMODE"),
    with_variable("krbsrvname", "PGKRBSRVNAME"),
    with_variable("gsslib", "PGGSSLIB"),
    with_variable("gssdelegation", "PGGSSDELEGATION"),
    plain("replication"),
    with_variable("target_session_attrs", "PGTARGETSESSIONATTRS"),
    with_variable("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    secret("scram_client_key", None),
    secret("scram_server_key", None),
    plain("oauth_issuer"),
    plain("oauth_client_id"),
    secret("oauth_client_secret", None),
    plain("oauth_scope"),
    plain("sslkeylogfile"),
];

/// The keyword of that exact name.
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// The known name nearest to a misspelt one, where one is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    // A name that is much longer is none misspelt, and comparing it takes its length's time for every keyword.
    let comparable = KEYWORDS.iter().filter(|keyword| name.len() <= 2 * keyword.name.len() + 8);
    comparable
        .map(|keyword| (strsim::damerau_levenshtein(name, keyword.name), keyword.name))
        .min()
        .filter(|(distance, found)| *distance <= 2 && *distance < found.len())
        .map(|(_, found)| found)
}
