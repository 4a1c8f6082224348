//! `sslmode` against servers with and without a certificate.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use common::report::{Advice, Cancel};
use common::server::Session;

use crate::cluster::{Cluster, put, runs_here};

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A root, a server certificate for `localhost` that it signed, and another root; and a self-signed one.
fn certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
    for root in ["root", "other"] {
        openssl(directory, &format!("req -x509 {key} -subj /CN={root} -keyout {root}.key -out {root}.crt"));
    }
    openssl(directory, &format!("req {key} -subj /CN=server -keyout signed.key -out signed.csr"));
    put(&directory.join("san"), "subjectAltName=DNS:localhost\n", 0o600);
    let sign = "-CA root.crt -CAkey root.key -CAcreateserial -days 30 -extfile san";
    openssl(directory, &format!("x509 -req -in signed.csr {sign} -out signed.crt"));
    // As the manual of PostgreSQL advises: a certificate that is its own root.
    openssl(directory, &format!("req -x509 {key} -subj /CN=localhost -keyout own.key -out own.crt"));
}

fn tls_cluster(certificate: Option<&str>, hba: &str) -> (Cluster, u16) {
    let mut cluster = Cluster::new();
    certificates(cluster.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    cluster.set("listen_addresses", "127.0.0.1");
    cluster.set("port", &port.to_string());
    if let Some(name) = certificate {
        cluster.set("ssl", "on");
        for (setting, suffix) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            cluster.set(setting, cluster.path().join(format!("{name}.{suffix}")).to_str().unwrap());
        }
    }
    put(&cluster.data().join("pg_hba.conf"), &format!("local all all trust\n{hba}\n"), 0o600);
    common::server::start(&cluster.programs, &cluster.data(), &cluster.options(), &Cancel::default()).unwrap();
    let socket = format!("host={} port={port} user=boss dbname=postgres", cluster.path().display());
    crate::cluster::wait_for(&common::server::Conninfo::parse(&socket).unwrap());
    (cluster, port)
}

/// Whether a session opens, and with TLS; else the error. `DIR` in the parameters is the cluster's folder.
fn attempt(cluster: &Cluster, port: u16, parameters: &str) -> Result<bool, anyhow::Error> {
    let parameters = parameters.replace("DIR", cluster.path().to_str().unwrap());
    let text = format!("host=localhost hostaddr=127.0.0.1 port={port} user=boss dbname=postgres {parameters}");
    let mut session = Session::connect(&common::server::Conninfo::parse(&text)?, &Cancel::default())?;
    let ssl = session.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")?;
    Ok(ssl.as_deref() == Some("t"))
}

fn check(cluster: &Cluster, port: u16, cases: &[(&str, Option<bool>)]) {
    for (parameters, expected) in cases {
        let found = attempt(cluster, port, parameters);
        assert_eq!(found.as_ref().ok(), expected.as_ref(), "{parameters}: {found:?}");
    }
}

#[test]
fn verifies_what_the_mode_asks_for() {
    if !runs_here("tls::verifies_what_the_mode_asks_for") {
        return;
    }
    let (cluster, port) = tls_cluster(Some("signed"), "host all all 127.0.0.1/32 trust");
    let cases = [
        ("", Some(true)),
        ("sslmode=disable", Some(false)),
        ("sslmode=allow", Some(false)),
        ("sslmode=require", Some(true)),
        ("sslmode=require sslrootcert=DIR/root.crt", Some(true)),
        // A root certificate is used whenever there is one.
        ("sslmode=require sslrootcert=DIR/other.crt", None),
        ("sslmode=prefer sslrootcert=DIR/other.crt", Some(false)),
        ("sslmode=verify-ca sslrootcert=DIR/root.crt", Some(true)),
        ("sslmode=verify-ca sslrootcert=DIR/root.crt host=elsewhere", Some(true)),
        ("sslmode=verify-ca sslrootcert=DIR/other.crt", None),
        ("sslmode=verify-ca", None),
        ("sslmode=verify-full sslrootcert=DIR/root.crt", Some(true)),
        ("sslmode=verify-full sslrootcert=DIR/root.crt host=elsewhere", None),
        ("sslmode=verify-full sslrootcert=system", None),
        ("sslmode=require ssl_min_protocol_version=TLSv1.3", Some(true)),
        ("sslmode=require ssl_max_protocol_version=TLSv1.2", Some(true)),
    ];
    check(&cluster, port, &cases);
    let error = attempt(&cluster, port, "sslmode=verify-full sslrootcert=DIR/root.crt host=elsewhere").unwrap_err();
    assert!(error.to_string().contains("host elsewhere (127.0.0.1)"), "{error:#}");
}

#[test]
fn takes_a_self_signed_certificate_as_its_own_root() {
    if !runs_here("tls::takes_a_self_signed_certificate_as_its_own_root") {
        return;
    }
    let (cluster, port) = tls_cluster(Some("own"), "host all all 127.0.0.1/32 trust");
    let cases = [
        ("sslmode=verify-ca sslrootcert=DIR/own.crt", Some(true)),
        ("sslmode=verify-ca sslrootcert=DIR/root.crt", None),
        // The name is only in the subject, which is not looked at.
        ("sslmode=verify-full sslrootcert=DIR/own.crt", None),
    ];
    check(&cluster, port, &cases);
}

#[test]
fn goes_without_where_it_may() {
    if !runs_here("tls::goes_without_where_it_may") {
        return;
    }
    let (cluster, port) = tls_cluster(None, "host all all 127.0.0.1/32 trust");
    check(&cluster, port, &[("", Some(false)), ("sslmode=allow", Some(false)), ("sslmode=require", None)]);
}

#[test]
fn tries_the_other_way_when_refused() {
    if !runs_here("tls::tries_the_other_way_when_refused") {
        return;
    }
    let (cluster, port) = tls_cluster(Some("signed"), "hostnossl all all 127.0.0.1/32 trust");
    check(&cluster, port, &[("", Some(false)), ("sslmode=require", None)]);
    let error = attempt(&cluster, port, "sslmode=require").unwrap_err();
    assert!(error.downcast_ref::<Advice>().unwrap().hint.as_ref().unwrap().contains("pg_hba.conf"), "{error:#}");
    drop(cluster);
    let (cluster, port) = tls_cluster(Some("signed"), "hostssl all all 127.0.0.1/32 trust");
    check(&cluster, port, &[("sslmode=allow", Some(true)), ("sslmode=disable", None)]);
}

#[test]
fn shows_a_client_certificate() {
    if !runs_here("tls::shows_a_client_certificate") {
        return;
    }
    let (mut cluster, _) = tls_cluster(Some("signed"), "host all all 127.0.0.1/32 trust");
    let stopped = common::server::StopMode::Immediate;
    common::server::stop(&cluster.programs, &cluster.data(), stopped, crate::cluster::WAIT, &Cancel::default())
        .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(cluster.path(), &format!("req {key} -subj /CN=boss -keyout boss.key -out boss.csr"));
    put(&cluster.path().join("client"), "extendedKeyUsage=clientAuth\n", 0o600);
    let sign = "-CA root.crt -CAkey root.key -CAcreateserial -days 30 -extfile client";
    openssl(cluster.path(), &format!("x509 -req -in boss.csr {sign} -out boss.crt"));
    cluster.set("ssl_ca_file", cluster.path().join("root.crt").to_str().unwrap());
    put(&cluster.data().join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.1/32 cert\n", 0o600);
    let port = cluster.settings.iter().find(|(name, _)| name == "port").unwrap().1.parse().unwrap();
    common::server::start(&cluster.programs, &cluster.data(), &cluster.options(), &Cancel::default()).unwrap();
    let socket = format!("host={} port={port} user=boss dbname=postgres", cluster.path().display());
    crate::cluster::wait_for(&common::server::Conninfo::parse(&socket).unwrap());
    let identity = "sslmode=require sslcert=DIR/boss.crt sslkey=DIR/boss.key";
    check(&cluster, port, &[(identity, Some(true)), ("sslmode=require", None)]);
    std::fs::set_permissions(cluster.path().join("boss.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    let error = attempt(&cluster, port, identity).unwrap_err();
    assert!(format!("{error:#}").contains("can be accessed by group or others"), "{error:#}");
}
