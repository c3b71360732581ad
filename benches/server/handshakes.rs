//! What a new connection costs: a full handshake with a client certificate, and one small request.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::rig::Rig;
use crate::table::Table;

/// Connections of one measurement.
const CONNECTIONS: usize = 4_000;
/// Clients that connect one after another.
const CLIENTS: usize = 8;

/// Measures both key exchanges, the hybrid one that our own clients use first.
pub(crate) async fn measure(rig: &Rig, table: &mut Table) {
    let server = rig.start().await;
    for (name, group) in [
        ("X25519MLKEM768", kx_group::X25519MLKEM768),
        ("X25519", kx_group::X25519),
    ] {
        let connector = TlsConnector::from(Arc::new(config(rig, group)));
        let address = rig.operator_address();
        connect(&connector, &address).await.unwrap();
        let (cpu, start) = (server.cpu(), Instant::now());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (connector, address) = (connector.clone(), address.clone());
                tokio::spawn(async move {
                    for _ in 0..CONNECTIONS / CLIENTS {
                        connect(&connector, &address).await.unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let rate = CONNECTIONS as f64 / start.elapsed().as_secs_f64();
        let cpu = (server.cpu() - cpu) * 1e3 / CONNECTIONS as f64;
        let of = |what: &str| format!("{what}, {name}");
        table.row(&of("server CPU per new connection"), cpu, "us", "");
        table.row(&of("new connections, eight at once"), rate, "/s", "");
    }
    server.stop().await;
}

/// The answer shows that the server, too, has finished its handshake.
async fn connect(connector: &TlsConnector, address: &str) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await?;
    let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    Ok(())
}

fn config(rig: &Rig, group: &'static dyn rustls::crypto::SupportedKxGroup) -> ClientConfig {
    let file = |name: &str| rig.environment().join("pki").join(name);
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(file("ca.pem")).unwrap())
        .unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![group];
    let own = CertificateDer::from_pem_file(file("operator.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("operator-key.pem")).unwrap();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)
        .unwrap()
}
