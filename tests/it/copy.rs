//! An environment moves from a SQLite file to a PostgreSQL server. Needs the server of `scripts/with-postgres.sh`,
//! whatever engine the other tests run on.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::appliance::countersignd;
use crate::support::database::Database;
use crate::support::engine::{OwnDatabase, Storage};
use crate::support::wallet::{mined, send, send_and_mine};
use crate::support::{Appliance, Node, wallet_of};

/// `countersignd migrate --from` the appliance's file, with more arguments.
fn migrate(appliance: &Appliance, arguments: &[&str]) -> Output {
    let source = appliance.environment().join("countersign.db");
    countersignd(&appliance.token)
        .args(["migrate", "--from"])
        .arg(format!("sqlite:{}", source.display()))
        .args(arguments)
        .output()
        .unwrap()
}

fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output, code: i32, reason: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(reason), "{said}");
}

/// The appliance's configuration, with the database in place of the file.
fn configuration(appliance: &Appliance, target: &OwnDatabase) -> String {
    let OwnDatabase {
        server,
        name,
        password_file,
        ..
    } = target;
    let table = format!(
        "[store.postgres]\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"{name}\"\nuser = \"{name}\"\n\
         password_file = \"{}\"\nca_file = \"{}\"\n",
        server.port(),
        password_file.display(),
        server.ca.display()
    );
    let old = fs::read_to_string(appliance.environment().join("countersignd.toml")).unwrap();
    let new = old.replace("[store]\npath = \"countersign.db\"\n", &table);
    assert_ne!(old, new);
    new
}

/// An environment with a wallet that has signed, and that nobody serves any more.
async fn environment(node: &Node) -> (Appliance, countersign_client::keystore::Wallet) {
    let mut appliance = Appliance::init_on(&node.url(), |_| Storage::Sqlite);
    appliance.serve().await;
    let mut wallet = wallet_of(&appliance, node, "mover").await;
    send_and_mine(&mut wallet, &appliance, 1_000).await;
    refused(
        &migrate(&appliance, &["--to-config", "x.toml"]),
        2,
        "x.toml",
    );
    (appliance, wallet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_signs_on_after_its_environment_was_copied_to_postgresql() {
    let node = Node::start().await;
    let (mut appliance, mut wallet) = environment(&node).await;
    let target = OwnDatabase::make(appliance.directory());
    let config = appliance.environment().join("countersignd.toml");
    let new_config = appliance.environment().join("new.toml");
    fs::write(&new_config, configuration(&appliance, &target)).unwrap();
    let to = ["--to-config", new_config.to_str().unwrap()];
    let dry = [to[0], to[1], "--dry-run"];

    refused(
        &migrate(&appliance, &to),
        1,
        "another countersignd is using",
    );
    appliance.stop().await;
    let would = done(&migrate(&appliance, &dry));
    assert!(would.contains("would copy transactions: 1 rows"), "{would}");
    assert_eq!(
        Database::of(&target).rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"),
        Vec::<String>::new()
    );

    let before = fs::read(appliance.environment().join("countersign.db")).unwrap();
    let proof = done(&migrate(&appliance, &to));
    let line = proof
        .lines()
        .find(|line| line.starts_with("audit_chain "))
        .unwrap();
    let records = appliance
        .database()
        .number("SELECT COUNT(*) FROM audit_records");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[1].parse(), Ok(records), "{proof}");
    assert_eq!(words[2].len(), 64, "{proof}");
    assert!(
        proof.contains(&format!("audit chain: {records} links, intact")),
        "{proof}"
    );
    let after = fs::read(appliance.environment().join("countersign.db")).unwrap();
    assert!(before == after, "the source was changed");
    refused(
        &migrate(&appliance, &to),
        1,
        "holds this environment already",
    );

    fs::rename(&new_config, &config).unwrap();
    appliance.serve().await;
    let sent = send(&mut wallet, &appliance, 2_000).await.unwrap();
    mined(&wallet, &appliance, &sent).await.unwrap();
    let copied = Database::of(&target);
    let nonces = copied.rows("SELECT nonce FROM transactions WHERE state = 'mined' ORDER BY nonce");
    assert_eq!(nonces, ["0", "1"]);
    appliance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_trusted_is_not_served() {
    let node = Node::start().await;
    let (mut appliance, _wallet) = environment(&node).await;
    appliance.stop().await;
    let target = OwnDatabase::make(appliance.directory());
    let url = format!(
        "postgres://{0}@127.0.0.1:{1}/{0}",
        target.name,
        target.server.port()
    );
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (password, ca) = (path(&target.password_file), path(&target.server.ca));
    let to = ["--to", &url, "--password-file", &password, "--ca-file", &ca];

    // Whoever can write to the target changes a row of what was copied, before it is compared.
    let spoil = "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN NEW.state := ''active''; NEW.name := NEW.name || ''x''; RETURN NEW; END'";
    let watch = "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS \
         'BEGIN IF to_regclass(''public.profiles'') IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pg_trigger \
         WHERE tgname = ''spoil'') THEN CREATE TRIGGER spoil BEFORE INSERT ON public.profiles FOR EACH ROW \
         EXECUTE FUNCTION spoil(); END IF; END'";
    let arm = "CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION watch()";
    target.server.run(&target.name, &[spoil, watch, arm]);
    refused(
        &migrate(&appliance, &to),
        1,
        "table profiles differs: 1 rows in the source, 1 in the target",
    );

    let config = appliance.environment().join("countersignd.toml");
    let old = fs::read(&config).unwrap();
    fs::write(&config, configuration(&appliance, &target)).unwrap();
    let served = appliance.serve_command().output().unwrap();
    refused(&served, 1, "unfinished copy");

    target.server.run(
        &target.name,
        &["DROP EVENT TRIGGER watch", "DROP FUNCTION spoil() CASCADE"],
    );
    fs::write(&config, old).unwrap();
    done(&migrate(&appliance, &to));
}
