//! Starting and stopping: nothing half done, one process per database, a record of everything.

use std::time::Duration;

use countersign_client::keystore::WalletState;
use countersign_mpc::lp::Lp;

use crate::support::appliance::output_within;
use crate::support::engine::Engine;
use crate::support::wallet::{address, passphrase, profile, send_and_mine, try_create};
use crate::support::{Appliance, Node, eventually, wallet_of};

/// Recomputes the chain over the audit records without our code and says how long it is.
fn verify_audit_chain(appliance: &Appliance) -> usize {
    let rows = appliance.database().rows(
        "SELECT c.position, hex(c.previous_hash), hex(c.hash), r.operation_id, r.at, r.event, r.outcome, \
                COALESCE(r.profile_id, ''), COALESCE(r.session_id, ''), r.detail \
         FROM audit_chain c JOIN audit_records r USING (operation_id) ORDER BY c.position",
    );
    let mut previous = vec![0; 32];
    for (index, row) in rows.iter().enumerate() {
        let fields: Vec<&str> = row.splitn(10, '|').collect();
        assert_eq!(fields[0], (index + 1).to_string(), "no gaps");
        assert_eq!(
            hex::decode(fields[1]).unwrap(),
            previous,
            "position {}",
            index + 1
        );
        let hash = Lp::new("audit/1")
            .bytes(&previous)
            .str(fields[3])
            .u64(fields[4].parse().unwrap())
            .str(fields[5])
            .str(fields[6])
            .str(fields[7])
            .str(fields[8])
            .str(fields[9])
            .hash();
        assert_eq!(
            hex::decode(fields[2]).unwrap(),
            hash,
            "position {}",
            index + 1
        );
        previous = hash.to_vec();
    }
    rows.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a36_after_a_stop_every_record_is_chained_and_every_step_has_its_record() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    send_and_mine(&mut wallet, &appliance, 1).await;
    // Unwraps <= records <= permits, and no record stays open.
    let unwraps = appliance.metric("countersign_share_unwraps_total").await;
    let records = appliance.metric("countersign_step_records_total").await;
    let permits = appliance.metric("countersign_permits_total").await;
    assert_eq!((unwraps, records, permits), (3.0, 5.0, 5.0));
    appliance.stop().await;

    let database = appliance.database();
    assert_eq!(
        database.rows("SELECT DISTINCT outcome FROM steps"),
        ["done"]
    );
    assert_eq!(database.number("SELECT COUNT(*) FROM steps"), 5);
    assert_eq!(
        database.number("SELECT COUNT(*) FROM audit_records WHERE chained = 0"),
        0
    );
    let records = database.number("SELECT COUNT(*) FROM audit_records");
    assert_eq!(
        i64::try_from(verify_audit_chain(&appliance)).unwrap(),
        records
    );
    for event in [
        "keygen_requested",
        "share_stored",
        "profile_activated",
        "transaction_prepared",
        "transaction_signed",
    ] {
        let count = format!("SELECT COUNT(*) FROM audit_records WHERE event = '{event}'");
        assert_eq!(database.number(&count), 1, "{event}");
    }
    // A new process goes on with the same chain.
    appliance.serve().await;
    send_and_mine(&mut wallet, &appliance, 2).await;
    appliance.stop().await;
    assert!(i64::try_from(verify_audit_chain(&appliance)).unwrap() > records);
    assert_eq!(
        database.number("SELECT COUNT(*) FROM audit_records WHERE chained = 0"),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_a_stop_concludes_the_running_step() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let database = appliance.database();
    let keystore = appliance.keystore();
    let client = appliance.client.clone();
    let creation = tokio::spawn(async move {
        let name = "w".parse().unwrap();
        countersign_client::flows::create::create_wallet(
            &keystore,
            &client,
            &name,
            &passphrase(),
            &mut |_| (),
        )
        .await
        .map(drop)
    });
    // The second step is the long one: stop in the middle of it.
    eventually("the second step runs", 10, async || {
        let running = "SELECT COUNT(*) FROM sessions WHERE state = 'r2_checking'";
        (database.number(running) == 1).then_some(())
    })
    .await;
    appliance.terminate();
    let status = appliance.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(
        database.rows("SELECT DISTINCT outcome FROM steps"),
        ["done"]
    );
    assert_eq!(
        database.number("SELECT COUNT(*) FROM profiles WHERE checking IS NOT NULL"),
        0
    );
    assert_eq!(database.value("SELECT state FROM profiles"), "pending");
    assert_eq!(
        database.number("SELECT COUNT(*) FROM audit_records WHERE chained = 0"),
        0
    );
    creation.abort();
    drop(creation.await);

    // Its memory is gone, so the key is made anew; nobody was shown an address.
    appliance.serve().await;
    let mut wallet = try_create(&appliance, "w").await.unwrap();
    assert_eq!(wallet.state(), WalletState::Active);
    node.fund(&address(&wallet)).await;
    send_and_mine(&mut wallet, &appliance, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_per_database() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let second = output_within(appliance.serve_command(), Duration::from_secs(10));
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    // A file has one user. A server has many: there it is only the port that is taken.
    let expected = match Engine::of_this_run() {
        Engine::Sqlite => "another countersignd is using",
        Engine::Postgres => "Address already in use",
    };
    assert!(said.contains(expected), "{said}");
    assert!(appliance.is_running());
    let ready = appliance.operator("/readyz").await.unwrap();
    assert_eq!(ready.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_of_one_appliance_are_independent_and_survive_a_restart() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut one = wallet_of(&appliance, &node, "one").await;
    let mut two = wallet_of(&appliance, &node, "two").await;
    assert_ne!(address(&one), address(&two));
    assert_ne!(profile(&one), profile(&two));
    send_and_mine(&mut one, &appliance, 1).await;
    appliance.crash_and_restart().await;
    drop(two);
    two = appliance
        .keystore()
        .open(&"two".parse().unwrap(), &passphrase())
        .unwrap();
    send_and_mine(&mut two, &appliance, 2).await;
    send_and_mine(&mut one, &appliance, 3).await;
    assert_eq!(node.nonce(&address(&one)).await, 2);
    assert_eq!(node.nonce(&address(&two)).await, 1);
}
