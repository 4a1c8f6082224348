//! Connection parameters, compared with what `psql` makes of the same.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use common::report::Cancel;
use common::server::{Place, Session, Sources, resolve};

use crate::cluster::{Cluster, put, runs_here};

/// Flags as `-d -h -p -U`, and variables. `{dir}` is the socket directory, `{enc}` the same percent-encoded.
type Case = ([Option<&'static str>; 4], &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ([None, None, None, None], &[("PGHOST", "{dir}"), ("PGUSER", "alice"), ("PGDATABASE", "shop")]),
    ([Some("shop"), Some("{dir}"), None, Some("alice")], &[("PGUSER", "boss"), ("PGHOST", "/nowhere")]),
    ([Some("host={dir} dbname=shop"), Some("/nowhere"), None, Some("alice")], &[]),
    ([Some("host={dir} user=boss dbname='odd \\'name'"), None, None, Some("alice")], &[]),
    ([Some("postgresql://alice@{enc}/odd%20%27name"), None, Some("5432"), None], &[("PGPORT", "7")]),
    ([Some("postgresql://alice@{enc}:5432/shop"), None, Some("9"), None], &[("PGPORT", "7")]),
    ([Some("postgresql:///shop?host={dir}&user=alice"), None, None, None], &[]),
    ([Some("service=mine"), None, None, None], &[("PGUSER", "boss"), ("PGDATABASE", "postgres")]),
    ([Some("service=mine dbname=postgres"), None, None, Some("boss")], &[]),
    ([None, None, None, None], &[("PGSERVICE", "mine"), ("PGHOST", "/nowhere")]),
    ([Some("host=/nowhere,{dir} user=alice dbname=shop port=1,5432"), None, None, None], &[]),
    ([Some("shop"), Some("/nowhere,{dir}"), None, Some("alice")], &[]),
];

#[test]
fn resolves_as_psql_does() {
    if !runs_here("resolve::resolves_as_psql_does") {
        return;
    }
    let cluster = Cluster::running();
    let mut session = cluster.session();
    session.execute("CREATE ROLE alice LOGIN").unwrap();
    session.execute("CREATE DATABASE shop").unwrap();
    session.execute("CREATE DATABASE \"odd 'name\"").unwrap();
    let directory = cluster.path().to_str().unwrap();
    let service = format!("# mine\n[other]\nhost=/nowhere\n[mine]\nhost={directory}\nuser=alice\ndbname=shop\n");
    put(&cluster.path().join(".pg_service.conf"), &service, 0o600);
    let fill = |text: &str| text.replace("{dir}", directory).replace("{enc}", &directory.replace('/', "%2F"));
    for (flags, variables) in CASES {
        let flags = flags.map(|flag| flag.map(fill));
        let variables: HashMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), fill(value))).collect();
        let variables = with_service_file(variables, cluster.path());
        let expected = psql(&cluster, &flags, &variables);
        let found = ours(&cluster, &flags, &variables);
        assert_eq!(found, expected, "{flags:?} {variables:?}");
    }
}

/// Before version 15 `psql` does not look for the user's folder in the environment.
fn with_service_file(mut variables: HashMap<String, String>, directory: &Path) -> HashMap<String, String> {
    let file = directory.join(".pg_service.conf").to_str().unwrap().to_owned();
    variables.insert("PGSERVICEFILE".to_owned(), file);
    variables
}

/// Host, port, user and database that `psql` ends up with.
fn psql(cluster: &Cluster, flags: &[Option<String>; 4], variables: &HashMap<String, String>) -> String {
    let mut command = Command::new(cluster.programs.path("psql"));
    command.env_clear().env("HOME", cluster.path()).envs(variables);
    command.args(["-X", "-w", "-A", "-t", "-c", "\\echo :HOST :PORT :USER :DBNAME"]);
    for (option, value) in ["-d", "-h", "-p", "-U"].into_iter().zip(flags) {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The same of ours: the first server that takes a session.
fn ours(cluster: &Cluster, flags: &[Option<String>; 4], variables: &HashMap<String, String>) -> String {
    let [dbname, host, port, user] = flags.clone();
    let environment = |name: &str| variables.get(name).cloned();
    let info = resolve(&Sources {
        environment: &environment,
        dbname,
        host,
        port,
        user,
        configured: None,
        default_user: "nobody".to_owned(),
        home: cluster.path().to_owned(),
    })
    .unwrap();
    let mut session = Session::connect(&info, &Cancel::default()).unwrap();
    let endpoints = info.endpoints().unwrap();
    let used =
        endpoints.iter().find(|endpoint| matches!(&endpoint.place, Place::Socket(path) if path == cluster.path()));
    let used = used.unwrap();
    let Place::Socket(directory) = &used.place else { panic!("{used}") };
    let names = session.rows("SELECT current_user, current_database()").unwrap();
    let names: Vec<&str> = names.iter().flatten().map(|name| name.as_deref().unwrap()).collect();
    format!("{} {} {}", directory.display(), used.port, names.join(" "))
}

#[test]
fn finds_passwords() {
    if !runs_here("resolve::finds_passwords") {
        return;
    }
    let cluster = Cluster::running();
    let mut session = cluster.session();
    session.execute("CREATE ROLE alice LOGIN PASSWORD 'open:sesame\\'").unwrap();
    put(&cluster.data().join("pg_hba.conf"), "local all alice scram-sha-256\nlocal all boss trust\n", 0o600);
    session.execute("SELECT pg_reload_conf()").unwrap();
    let connect = |passfile: &str, more: &str| {
        put(&cluster.path().join(".pgpass"), passfile, 0o600);
        let environment = |_: &str| None;
        let info = resolve(&Sources {
            environment: &environment,
            dbname: Some(format!("host={} user=alice dbname=postgres {more}", cluster.path().display())),
            host: None,
            port: None,
            user: None,
            configured: None,
            default_user: "nobody".to_owned(),
            home: cluster.path().to_owned(),
        });
        Session::connect(&info.unwrap(), &Cancel::default())
    };
    // The reload takes effect when the postmaster comes to it.
    let refused = common::sys::clock::poll(
        common::sys::clock::Deadline::after(crate::cluster::WAIT),
        std::time::Duration::from_millis(20),
        &Cancel::default(),
        || Ok(connect("", "").err()),
    );
    let missing = refused.unwrap().unwrap();
    let hint = |error: &anyhow::Error| error.downcast_ref::<common::report::Advice>().unwrap().hint.clone().unwrap();
    assert!(hint(&missing).contains(".pgpass"), "{missing:#}");
    connect(&format!("{}:5432:*:alice:open\\:sesame\\\\\n", cluster.path().display()), "").unwrap();
    connect("", "password='open:sesame\\\\'").unwrap();
    let wrong = connect("*:*:*:*:wrongword\n", "").unwrap_err();
    assert!(hint(&wrong).contains("taken from the password file"), "{wrong:#}");
    assert!(!format!("{wrong:#} {wrong:?} {}", hint(&wrong)).contains("wrongword"));
}
