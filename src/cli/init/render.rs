//! The files of a new environment: certificates, `client.toml`, `operator.toml`, and last `countersignd.toml`.

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use rcgen::SanType;

use super::plan::{Client, DATABASE, Pki, Plan, Rpc, TENANT};
use super::{Environment, Paths};
use crate::cli::Failure;
use crate::cli::files::{self, Access};
use crate::cli::pki::{Authority, Issued, Usage, Validity};
use crate::clock;
use crate::config::{HsmProfile, PostgresTable, is_plain_url};
use crate::domain::EnvironmentKind;
use crate::identity::certificate::{Role, SubjectName};

const GATEWAY: &str = "spiffe://countersign.test/gateway";
const OPERATOR: &str = "spiffe://countersign.test/operator";

/// Validity of development certificates, in days.
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 730;

/// Validity of the development CA's revocation list: as long as that of what it revokes.
pub(in crate::cli) const CRL_DAYS: i64 = LEAF_DAYS;

pub(super) fn write(
    plan: &Plan,
    paths: &Paths,
    environment: &Environment,
    roots: &[[u8; 65]],
) -> Result<(), Failure> {
    if matches!(plan.pki, Pki::Made) {
        certificates(plan, &paths.pki)?;
        let text = client_toml(plan, environment, roots);
        files::write(&paths.client, &text, Access::Private)?;
        files::write(&paths.operator, &operator_toml(plan), Access::Private)?;
    }
    for rpc in plan.rpc.iter().filter(|rpc| !is_plain(rpc)) {
        files::write(
            &plan.directory.join(url_file(rpc)),
            &rpc.url,
            Access::Private,
        )?;
    }
    files::write(
        &paths.config,
        &config_toml(plan, environment, roots),
        Access::Private,
    )?;
    Ok(())
}

fn certificates(plan: &Plan, directory: &Path) -> Result<(), Failure> {
    let now = clock::now();
    let authority = Authority::new("countersign development CA", Validity::days(now, CA_DAYS))?;
    let leaf =
        |name, names, usage| authority.issue(name, names, usage, Validity::days(now, LEAF_DAYS));
    let uri = |name: &str| Ok::<_, rcgen::Error>(vec![SanType::URI(name.try_into()?)]);
    files::directory(directory)?;
    let list = authority.revocation_list(&[], Validity::days(now, CRL_DAYS))?;
    files::write(&directory.join("ca.crl.pem"), &list, Access::Public)?;
    for (name, issued) in [
        ("ca", authority.own()),
        (
            "server",
            leaf("countersignd", server_names(plan)?, Usage::Server)?,
        ),
        ("gateway", leaf("gateway", uri(GATEWAY)?, Usage::Client)?),
        ("operator", leaf("operator", uri(OPERATOR)?, Usage::Client)?),
    ] {
        let Issued { certificate, key } = issued;
        files::write(
            &directory.join(format!("{name}-key.pem")),
            &key,
            Access::Private,
        )?;
        files::write(
            &directory.join(format!("{name}.pem")),
            &certificate,
            Access::Public,
        )?;
    }
    Ok(())
}

fn server_names(plan: &Plan) -> Result<Vec<SanType>, rcgen::Error> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    for address in [plan.listen.ip(), plan.operator_listen.ip()] {
        if !address.is_unspecified() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let mut names = vec![SanType::DnsName("localhost".try_into()?)];
    names.extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(names)
}

fn client_toml(plan: &Plan, environment: &Environment, roots: &[[u8; 65]]) -> String {
    let mut text = format!(
        "# How a wallet reaches this appliance, and the key it pins. Paths are relative to this file.\n\
         url = {url}\n\
         ca = \"pki/ca.pem\"\n\
         certificate = \"pki/gateway.pem\"\n\
         key = \"pki/gateway-key.pem\"\n\
         audience = {audience}\n\
         environment_id = \"{id}\"\n\
         environment_kind = \"{kind}\"\n\
         tenant = \"{TENANT}\"\n\
         # Public keys of the offline roots that vouch for the appliance: P-256, SEC1 uncompressed.\n\
         root_keys = {roots}\n",
        url = quoted(format_args!("https://{}", reachable(plan.listen))),
        audience = quoted(&plan.audience),
        id = environment.id,
        kind = environment.kind,
        roots = hex_list(roots),
    );
    for rpc in &plan.rpc {
        append(
            &mut text,
            format_args!("\n[[chain]]\nid = {}\n", rpc.chain_id),
        );
        if is_plain(rpc) {
            append(&mut text, format_args!("rpc = {}\n", quoted(&rpc.url)));
        }
    }
    text
}

fn operator_toml(plan: &Plan) -> String {
    format!(
        "# How an operator reaches this appliance: `countersignd freeze`, `countersignd approve`. Paths are relative to this \
         file.\n\
         # The operators' listener of each instance; the first that answers is used.\n\
         urls = [{url}]\n\
         ca = \"pki/ca.pem\"\n\
         certificate = \"pki/operator.pem\"\n\
         key = \"pki/operator-key.pem\"\n",
        url = quoted(format_args!("https://{}", reachable(plan.operator_listen))),
    )
}

fn config_toml(plan: &Plan, environment: &Environment, roots: &[[u8; 65]]) -> String {
    let (profile, pin) = (profile_text(&plan.hsm.profile), plan.hsm.pin_file.display());
    let tls = tls_toml(&plan.pki);
    let listener =
        |name: &str, listen: SocketAddr| format!("\n[{name}]\nlisten = \"{listen}\"\n{tls}");
    let mut text = format!(
        "# Written by `countersignd init`. Unknown keys are errors; paths are relative to this file.\n\
         # The environment cannot be changed: token, database and this file must agree.\n\
         audience = {audience}\n\
         \n[environment]\nid = \"{id}\"\nkind = \"{kind}\"\n\
         {api}{operator}\
         \n# Who vouches for this appliance's identity key; wallets pin the same roots.\n\
         [identity]\ncertificate = \"identity/certificate.json\"\nroots = {roots}\n\
         \n[hsm]\nmodule = {module}\ntoken_label = {label}\npin_file = {pin}\nprofile = {profile}\n\
         {store}{anchor}\
         \n[[tenant]]\nname = \"{TENANT}\"\n",
        audience = quoted(&plan.audience),
        id = environment.id,
        kind = environment.kind,
        api = listener("api", plan.listen),
        operator = listener("operator", plan.operator_listen),
        module = quoted(plan.hsm.module.display()),
        label = quoted(&plan.hsm.token_label),
        pin = quoted(pin),
        profile = quoted(profile),
        roots = hex_list(roots),
        store = store_toml(plan.postgres.as_ref()),
        anchor = anchor_toml(plan),
    );
    if environment.kind == EnvironmentKind::Development {
        append(
            &mut text,
            format_args!(
                "\n[devices]\n# A new device may act at once.\ncooling_off_hours = 0\n\
                 \n[two_factor]\n# A new second factor counts at once.\ncooling_off = \"0s\"\n"
            ),
        );
    }
    for Client { san, role } in clients(plan) {
        append(
            &mut text,
            format_args!(
                "\n[[client]]\nsan = {}\nrole = \"{}\"\ntenant = \"{TENANT}\"\n",
                quoted(san),
                role.as_str()
            ),
        );
    }
    for rpc in &plan.rpc {
        append(
            &mut text,
            format_args!("\n[[chain]]\nid = {}\n", rpc.chain_id),
        );
        if is_plain(rpc) {
            append(&mut text, format_args!("rpc_url = {}\n", quoted(&rpc.url)));
        } else {
            append(
                &mut text,
                format_args!("rpc_url_file = {}\n", quoted(url_file(rpc))),
            );
        }
    }
    text
}

/// The files of a listener; both have the same.
fn tls_toml(pki: &Pki) -> String {
    let made = ["pki/server.pem", "pki/server-key.pem", "pki/ca.pem"];
    let (files, crls) = match pki {
        Pki::Made => (made.map(quoted), vec![quoted("pki/ca.crl.pem")]),
        Pki::Brought {
            certificate,
            key,
            client_ca,
            crls,
            ..
        } => (
            [certificate, key, client_ca].map(|path| quoted(path.display())),
            crls.iter().map(|path| quoted(path.display())).collect(),
        ),
    };
    let [certificate, key, client_ca] = files;
    format!(
        "certificate = {certificate}\nkey = {key}\nclient_ca = {client_ca}\ncrl = [{}]\n",
        crls.join(", ")
    )
}

fn anchor_toml(plan: &Plan) -> String {
    plan.witness_file.as_ref().map_or_else(String::new, |file| {
        format!("\n[anchor]\nwitness_file = {}\n", quoted(file.display()))
    })
}

fn store_toml(postgres: Option<&PostgresTable>) -> String {
    let Some(postgres) = postgres else {
        return format!("\n[store]\npath = {}\n", quoted(DATABASE));
    };
    let PostgresTable {
        host,
        port,
        database,
        user,
        password_file,
        ca_file,
        connections: _,
    } = postgres;
    let mut text = format!("\n[store.postgres]\nhost = {}\n", quoted(host));
    if let Some(port) = port {
        append(&mut text, format_args!("port = {port}\n"));
    }
    for (key, name) in [("database", database), ("user", user)] {
        append(&mut text, format_args!("{key} = {}\n", quoted(name)));
    }
    for (key, file) in [("password_file", password_file), ("ca_file", ca_file)] {
        if let Some(file) = file {
            append(
                &mut text,
                format_args!("{key} = {}\n", quoted(file.display())),
            );
        }
    }
    text
}

fn clients(plan: &Plan) -> Vec<Client> {
    match &plan.pki {
        Pki::Brought { clients, .. } => clients.clone(),
        Pki::Made => [(GATEWAY, Role::Gateway), (OPERATOR, Role::Operator)]
            .into_iter()
            .map(|(san, role)| Client {
                san: SubjectName::Spiffe(san.to_owned()),
                role,
            })
            .collect(),
    }
}

fn profile_text(profile: &HsmProfile) -> String {
    match profile {
        HsmProfile::Builtin(name) => name.clone(),
        HsmProfile::File(path) => path.display().to_string(),
    }
}

/// The address a client on this machine connects to.
fn reachable(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        format!("localhost:{}", listen.port())
    } else {
        listen.to_string()
    }
}

fn is_plain(rpc: &Rpc) -> bool {
    is_plain_url(&rpc.url)
}

fn url_file(rpc: &Rpc) -> String {
    format!("chain-{}.url", rpc.chain_id)
}

/// A TOML array of keys.
fn hex_list(keys: &[[u8; 65]]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| quoted(hex::encode(key))).collect();
    format!("[{}]", keys.join(", "))
}

/// A TOML string.
fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    text.write_fmt(more).ok();
}
