//! The keys and certificates of a world: one authority for the cluster, one for Pebble's own HTTPS endpoints.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

use crate::address;

const LIFETIME: Duration = Duration::from_hours(30 * 24);

/// The files in a folder `pki`. Each method names a path, whether or not it is written yet.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub(crate) fn kubeconfig(&self, who: &str) -> PathBuf {
        self.path(&format!("{who}.kubeconfig"))
    }

    /// Writes everything. Keys are P-256 and readable by the owner only.
    pub(crate) fn write(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).context("creating the folder for keys")?;
        let cluster = authority("Evercert test cluster")?;
        self.put("ca.crt", &cluster.pem())?;
        self.put("ca.key", &cluster.key().serialize_pem())?;
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let addresses = [[198, 19, 0, 1], [198, 18, 0, 1], [127, 0, 0, 1]];
        self.server(&cluster, "apiserver", &names, &addresses)?;
        self.client(&cluster, "admin", "admin", Some("system:masters"))?;
        self.client(
            &cluster,
            "controller-manager",
            "system:kube-controller-manager",
            None,
        )?;
        self.client(&cluster, "ingress", "ingress-controller", None)?;
        self.client(&cluster, "scheduler", "system:kube-scheduler", None)?;
        self.client(&cluster, "proxy", "system:kube-proxy", None)?;
        let kubelet = format!("system:node:{}", address::NODE_NAME);
        self.client(&cluster, "kubelet", &kubelet, Some("system:nodes"))?;
        // The API server, when it asks the kubelet for logs or to run something.
        let masters = Some("system:masters");
        self.client(&cluster, "kubelet-client", "kube-apiserver", masters)?;
        let tokens = KeyPair::generate().context("generating the key of service account tokens")?;
        self.put("sa.key", &tokens.serialize_pem())?;
        self.put("sa.pub", &tokens.public_key_pem())?;
        let pebble = authority("Evercert test Pebble endpoints")?;
        self.put("pebble-ca.crt", &pebble.pem())?;
        self.server(
            &pebble,
            "pebble",
            &["pebble", "localhost"],
            &[[198, 18, 0, 1], [127, 0, 0, 1]],
        )
    }

    fn server(
        &self,
        issuer: &Authority,
        file: &str,
        names: &[&str],
        addresses: &[[u8; 4]],
    ) -> Result<()> {
        let mut params = params(file)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(
                (*name).try_into().context("a server's name")?,
            ));
        }
        for address in addresses {
            params
                .subject_alt_names
                .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::from(*address))));
        }
        self.signed(issuer, file, &params).map(drop)
    }

    fn client(
        &self,
        issuer: &Authority,
        file: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<()> {
        let mut params = params(user)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        let (certificate, key) = self.signed(issuer, file, &params)?;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "evercert", "cluster": {
                "server": format!("https://{}:{}", address::NODE, address::API_SERVER_PORT),
                "certificate-authority-data": encode(&issuer.pem()),
            }}],
            "users": [{"name": file, "user": {
                "client-certificate-data": encode(&certificate),
                "client-key-data": encode(&key),
            }}],
            "contexts": [{"name": "evercert", "context": {"cluster": "evercert", "user": file}}],
            "current-context": "evercert",
        });
        self.put(&format!("{file}.kubeconfig"), &format!("{config:#}\n"))
    }

    fn signed(
        &self,
        issuer: &Authority,
        file: &str,
        params: &CertificateParams,
    ) -> Result<(String, String)> {
        let key = KeyPair::generate().with_context(|| format!("generating the key of {file}"))?;
        let certificate = params
            .signed_by(&key, issuer)
            .with_context(|| format!("signing {file}"))?;
        let pair = (certificate.pem(), key.serialize_pem());
        self.put(&format!("{file}.crt"), &pair.0)?;
        self.put(&format!("{file}.key"), &pair.1)?;
        Ok(pair)
    }

    fn put(&self, file: &str, text: &str) -> Result<()> {
        use std::io::Write;
        let path = self.path(file);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Result<Authority> {
    let mut params = params(name)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().context("generating an authority's key")?;
    CertifiedIssuer::self_signed(params, key).context("signing an authority")
}

fn params(common_name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("a certificate without names")?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    params.not_before =
        rcgen::date_time_ymd(1970, 1, 1) + now.saturating_sub(Duration::from_hours(1));
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + (now + LIFETIME);
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_by_the_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::at(dir.path().join("pki"));
        pki.write().unwrap();
        for file in ["ca.key", "sa.key", "pebble.key", "admin.kubeconfig"] {
            let mode = fs::metadata(pki.path(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
