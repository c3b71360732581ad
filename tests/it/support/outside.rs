//! Programs that share no code with us: `curl` and `openssl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Appliance;

/// What curl got: the HTTP status (0 for none), the head, and the body.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) error: String,
}

/// What `curl` says of an address.
pub(crate) fn curl(appliance: &Appliance, url: &str, options: &[&str]) -> Got {
    let head = appliance.directory().join("head");
    drop(std::fs::remove_file(&head));
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--noproxy",
            "*",
        ])
        .args([
            "--cacert",
            &appliance.pki("ca.pem"),
            "--write-out",
            "\n%{http_code}",
        ])
        .arg("--dump-header")
        .arg(&head)
        .args(options)
        .arg(url)
        .output()
        .expect("curl must be installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    Got {
        status: status.parse().unwrap(),
        head: std::fs::read_to_string(head)
            .unwrap_or_default()
            .to_lowercase(),
        body: body.to_owned(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What `openssl` says.
pub(crate) fn openssl(directory: &Path, arguments: &str) -> String {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("openssl must be installed");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A client certificate of the appliance's own CA with this name, and its key.
pub(crate) fn issued(appliance: &Appliance, san: &str, days: i32) -> [String; 2] {
    let directory = appliance.directory();
    let [ca, ca_key] = ["ca.pem", "ca-key.pem"].map(|name| appliance.pki(name));
    std::fs::write(
        directory.join("client.ext"),
        format!("subjectAltName = {san}\nextendedKeyUsage = clientAuth\n"),
    )
    .unwrap();
    openssl(
        directory,
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout client-key.pem -out client.csr -subj /CN=client",
    );
    let said = openssl(
        directory,
        &format!(
            "x509 -req -in client.csr -CA {ca} -CAkey {ca_key} -CAcreateserial -days {days} -extfile client.ext -out client.pem"
        ),
    );
    let certificate: PathBuf = directory.join("client.pem");
    assert!(certificate.exists(), "{said}");
    [certificate, directory.join("client-key.pem")].map(|path| path.to_str().unwrap().to_owned())
}
