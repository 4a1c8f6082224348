//! H13: settings and files of an earlier life that come with the backup.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, workload};

/// A cluster that was recovered once, was a standby once, and shows it.
fn scene(sandbox: &Sandbox, left_over: (&str, &str)) -> Result<(Cluster, Oracle)> {
    let repo = Repo::new(sandbox, "repo")?;
    let marker = sandbox.path().join("acted").display().to_string();
    let cluster = Recipe::new("pg")
        .segment_mb(1)
        .archived_to(&repo)
        .set(left_over.0, left_over.1)
        .set("recovery_target_action", "shutdown")
        .set("recovery_target_inclusive", "off")
        .set("recovery_target_timeline", "current")
        .set("primary_conninfo", "host=/nowhere user=nobody")
        .set("primary_slot_name", "gone")
        .set("restore_command", "/bin/false")
        .set("recovery_min_apply_delay", "1h")
        .set("recovery_end_command", &format!("echo end >> {marker}"))
        .set("archive_cleanup_command", &format!("echo cleanup >> {marker}"))
        .start(sandbox)?;
    for signal in ["standby.signal", "recovery.signal"] {
        sandbox.write(&cluster.pgdata().join(signal), b"")?;
    }
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 1)?;
    cluster.backup(&[])?;
    load.wait_for(&cluster, 40)?;
    load.stop()?;
    for signal in ["standby.signal", "recovery.signal"] {
        fs::remove_file(cluster.pgdata().join(signal))?;
    }
    cluster.switch_wal()?;
    let oracle = Oracle::read(sandbox, &repo, None, 1)?;
    Ok((cluster, oracle))
}

/// The moment asked for is reached, by every kind of target, whatever kind was left over.
#[rstest::rstest]
#[case::name(("recovery_target_name", "long ago"))]
#[case::xid(("recovery_target_xid", "5"))]
#[case::immediate(("recovery_target", "immediate"))]
fn hazard_13_left_over_settings_do_not_disturb(#[case] left_over: (&str, &str)) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, oracle) = scene(&sandbox, left_over)?;
    let commits = oracle.commits();
    let commit = commits.get(commits.len() - 10).context("forty commits")?;
    let (lsn, xid) = (commit.lsn.to_string(), commit.xid.to_string());
    let expected = oracle.at_lsn(commit.lsn, true);

    let copy = cluster.recover_copy("copy", &["--target-xid", &xid])?;
    workload::same_orders(&workload::orders(&copy)?, &expected).context("a copy, by xid")?;
    cluster.recover(&["--target-lsn", &lsn])?;
    workload::same_orders(&workload::orders(&cluster)?, &expected).context("in place, by position")?;
    for cluster in [&copy, &cluster] {
        for signal in ["standby.signal", "recovery.signal"] {
            ensure!(!cluster.pgdata().join(signal).exists(), "{signal} is left in {}", cluster.pgdata().display());
        }
    }
    let acted = sandbox.path().join("acted");
    ensure!(!acted.exists(), "a command of the backup's configuration ran: {:?}", fs::read_to_string(acted));

    // Nothing of the recovery is left either: the cluster restarts, archives, and can be recovered again.
    cluster.restart()?;
    cluster.switch_wal()?;
    cluster.recover(&["--target-latest"])?;
    workload::same_orders(&workload::orders(&cluster)?, &expected).context("again")
}
