//! All of it in short: archive, back up, lose the cluster, recover to a moment, verify. `make versions` tells this story on
//! every version of PostgreSQL.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Oracle, Repo, Sandbox, Workload, stock, workload};
use rstest::rstest;

#[rstest]
#[case::segments_of_1_mb(1)]
#[case::segments_of_16_mb(16)]
#[case::segments_of_64_mb(64)]
fn a_lost_cluster_comes_back_as_it_was_at_a_moment(#[case] segment_mb: u32) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(segment_mb).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 20)?;
    cluster.backup(&["-j", "2"])?;
    load.wait_for(&cluster, 20)?;
    cluster.switch_wal()?;
    load.wait_for(&cluster, 20)?;
    load.stop()?;
    cluster.switch_wal()?;
    let oracle = Oracle::read(&sandbox, &repo, None, 1)?;
    cluster.kill9()?;
    sandbox.clear(cluster.pgdata())?;

    let commits = oracle.commits();
    let moment = commits.get(commits.len() - 15).context("commits after the backup")?.time;
    let (kept, all) = (oracle.at_time(moment), oracle.all());
    ensure!(kept.len() < all.len(), "the moment is none before the end");
    let target = moment.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    cluster.recover(&["--target-time", &target])?;
    workload::same_orders(&workload::orders(&cluster)?, &kept)?;

    // Life goes on, on a timeline of its own, and all that is stored is sound.
    let load = Workload::start(&cluster, 1)?;
    load.wait_for(&cluster, 20)?;
    load.stop()?;
    cluster.switch_wal()?;
    cluster.backup(&[])?;
    sandbox.run("verify", &["backup", "--all", "--repo", repo.arg()?])?.success()?;
    stock::check_and_stop(&cluster)
}

#[test]
fn an_undone_recovery_leaves_the_cluster_as_it_was() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 20)?;
    load.stop()?;
    let before = workload::orders(&cluster)?;
    // The others show what they were at the start until the next one.
    let settings = "select name, setting from pg_settings
        where source = 'configuration file' and context <> 'postmaster' order by name";
    let set = cluster.sql(settings)?;
    for (options, kept) in [(["--target-immediate"], false), (["--target-latest"], true)] {
        cluster.recover(&options)?;
        ensure!((workload::orders(&cluster)? == before) == kept, "{options:?}");
        ensure!(cluster.sql(settings)? == set, "{options:?}: {}", cluster.sql(settings)?);
        let place = ["-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
        sandbox.run("recover", &[&["rollback"], &place[..]].concat())?.success()?;
        workload::same_orders(&workload::orders(&cluster)?, &before)?;
        ensure!(cluster.sql(settings)? == set, "after a rollback");
    }
    Ok(())
}
