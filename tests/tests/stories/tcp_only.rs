//! A server without a socket folder is reached by TCP.

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Repo, Sandbox, StopMode};

use crate::onward::recover;

/// Its last WAL is brought in, the recovered server is asked, and a host on the command line needs no port beside it.
#[test]
fn a_server_without_a_socket_is_recovered() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let [port] = Sandbox::tcp_ports()?;
    let recipe = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("port", &port.to_string());
    let cluster = recipe.set("unix_socket_directories", "").set("listen_addresses", "127.0.0.1").start(&sandbox)?;
    cluster.sql("create table t as select 1 as n")?;
    cluster.backup(&[])?;
    cluster.sql("insert into t values (2)")?;
    let ran = cluster.try_recover(&["--target-latest"])?.success()?;
    ensure!(!ran.stderr.contains("not archived first"), "{ran}");
    ensure!(cluster.sql("select count(*) from t")? == "2");
    ensure!(recover(&cluster, "row-counts", &[])?.success()?.stdout == "postgres public.t 2\n");

    cluster.try_recover(&["--target-latest", "--target-timeline", "1", "--no-start"])?.success()?;
    cluster.start()?;
    cluster.wait_promoted()?;
    recover(&cluster, "finish", &["-h", "127.0.0.1"])?.success()?;
    cluster.stop(StopMode::Immediate)
}
