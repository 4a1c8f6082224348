//! An application that writes while the story goes on: customers, orders and their items.
//!
//! Every transaction inserts one order, which carries its own transaction id, with two items, and pays from a
//! customer's balance; one in ten is rolled back. So a database is consistent when every order has its two items,
//! and the set of ids says exactly which transactions it holds. A marker in the WAL names each of these transactions
//! for the [`crate::Oracle`].

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::{Cluster, wait};

/// The prefix of the messages that mark the workload's transactions in the WAL.
pub(crate) const MARK: &str = "holdfast-load";

/// How long a writer rests between two transactions, so that the machine has room for the rest of the story.
const PAUSE: Duration = Duration::from_millis(4);

const SCHEMA: &str = "
    create table customers (id int primary key, name text not null, email text not null unique,
        balance numeric(12,2) not null default 0);
    create table orders (id bigint generated always as identity primary key,
        customer_id int not null references customers, xid bigint not null unique,
        placed timestamptz not null default clock_timestamp(), note text not null);
    create table order_items (order_id bigint not null references orders, line int not null, sku text not null,
        price numeric(10,2) not null, primary key (order_id, line));
    create index orders_by_customer on orders (customer_id, placed);
    insert into customers select i, 'Customer ' || i, md5(i::text) || '@example.org', 1000
        from generate_series(1, 500) i;";

/// Writers at work. Dropped, they stop.
#[derive(Debug)]
pub struct Workload {
    stop: Vec<mpsc::Sender<()>>,
    writers: Vec<JoinHandle<Result<BTreeSet<u64>>>>,
}

/// Creates the application's tables and its customers.
pub fn create_schema(cluster: &Cluster) -> Result<()> {
    cluster.sql(SCHEMA).map(drop)
}

impl Workload {
    /// Lets `writers` sessions write until [`Workload::stop`], or until the server goes away; returns once the first
    /// new order is committed.
    pub fn start(cluster: &Cluster, writers: usize) -> Result<Self> {
        let before: u64 = cluster.ask("select count(*) from orders")?;
        let mut load = Self { stop: Vec::new(), writers: Vec::new() };
        for number in 0..writers {
            let (sender, stopped) = mpsc::channel();
            let mut psql = cluster.psql()?;
            let session = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
            load.stop.push(sender);
            load.writers.push(thread::spawn(move || write_orders(session, number, &stopped)));
        }
        wait::until("the load writes", || Ok(cluster.ask::<u64>("select count(*) from orders")? > before))?;
        Ok(load)
    }

    /// Waits until `count` more orders are committed.
    pub fn wait_for(&self, cluster: &Cluster, count: u64) -> Result<()> {
        let before: u64 = cluster.ask("select count(*) from orders")?;
        wait::until("the load writes", || Ok(cluster.ask::<u64>("select count(*) from orders")? >= before + count))
    }

    /// Stops the writers; answers the transactions whose commit the server acknowledged.
    pub fn stop(mut self) -> Result<BTreeSet<u64>> {
        self.stop.clear();
        let mut committed = BTreeSet::new();
        for writer in self.writers.drain(..) {
            committed.extend(writer.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        Ok(committed)
    }
}

/// The transactions whose orders are in the database. Fails when an order is not whole.
pub fn orders(cluster: &Cluster) -> Result<BTreeSet<u64>> {
    let broken = cluster.sql(
        "select o.id from orders o left join order_items i on i.order_id = o.id group by o.id
         having count(i.order_id) <> 2 or o.note <> md5(o.xid::text)",
    )?;
    ensure!(broken.is_empty(), "orders that are not whole: {broken}");
    // The heap itself, so that an index that misses rows cannot hide them.
    let rows = cluster.sql("set enable_indexscan = off; set enable_indexonlyscan = off; select xid from orders")?;
    rows.lines().map(|line| line.parse().context("read a transaction id")).collect()
}

/// Fails unless the two sets are the same, saying how they differ.
pub fn same_orders(found: &BTreeSet<u64>, expected: &BTreeSet<u64>) -> Result<()> {
    let missing: Vec<_> = expected.difference(found).collect();
    let surplus: Vec<_> = found.difference(expected).collect();
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "{} orders expected, {} found; missing: {missing:?}; too many: {surplus:?}",
        expected.len(),
        found.len()
    );
    Ok(())
}

fn write_orders(mut session: Child, number: usize, stopped: &mpsc::Receiver<()>) -> Result<BTreeSet<u64>> {
    let mut input = session.stdin.take().context("a session without input")?;
    let mut output = BufReader::new(session.stdout.take().context("a session without output")?);
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut committed = BTreeSet::new();
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let commit = random.u8(..10) > 0;
        let sql = transaction(random.u32(1..=500), if commit { "commit" } else { "rollback" });
        // A server that is gone ends the session: that is the end of this writer's work, not a failure of it.
        let Ok(Some(xid)) = input.write_all(sql.as_bytes()).map(|()| answer(&mut output)) else { break };
        if commit {
            committed.insert(xid);
        }
    }
    drop(input);
    session.wait()?;
    Ok(committed)
}

fn transaction(customer: u32, end: &str) -> String {
    format!(
        "begin;
         select from pg_logical_emit_message(true, '{MARK}', '');
         update customers set balance = balance - 10 where id = {customer};
         with o as (
             insert into orders (customer_id, xid, note)
             select {customer}, x, md5(x::text) from (select pg_current_xact_id()::text::bigint as x) t
             returning id, xid),
         i as (
             insert into order_items select o.id, n, md5(o.id::text || n), 5 from o, generate_series(1, 2) n)
         select xid from o;
         {end};
         \\echo done\n"
    )
}

/// The transaction id that the session printed, once its end was acknowledged.
fn answer(output: &mut impl BufRead) -> Option<u64> {
    let mut xid = None;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim() {
            "" => {}
            "done" => return xid,
            number => xid = number.parse().ok(),
        }
    }
}
