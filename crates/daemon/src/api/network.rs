//! Requests over the network: TLS, and tokens.

use super::listen::Asker;
use super::problem::Sort;
use super::{Api, Problem};
use axum::http::{HeaderMap, header};
use marca_config::model::{self, Token};
use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// What connections are made with.
#[derive(Clone)]
pub(super) struct Secrets {
    pub acceptor: TlsAcceptor,
    tokens: Arc<[Token]>,
}

/// Where requests are taken from now on.
pub(super) struct Endpoints {
    /// None: nowhere.
    pub secrets: Option<Secrets>,
    pub addresses: BTreeSet<SocketAddr>,
    /// Those of the addresses that are new.
    pub listeners: Vec<(SocketAddr, TcpListener)>,
}

impl Api {
    /// Takes requests as the configuration says, and answers what hinders that. The certificate is read anew: it may be
    /// another one under the same name.
    pub fn configure(&mut self, api: &model::Api) -> Vec<String> {
        let mut findings = Vec::new();
        let secrets = match secrets(api) {
            Ok(secrets) => secrets,
            Err(finding) => {
                // With what it had until now; with nothing at all nobody could ask.
                findings.push(finding);
                return findings;
            }
        };
        let mut addresses = BTreeSet::new();
        let mut listeners = Vec::new();
        for &address in &api.listen {
            if self.addresses.contains(&address) {
                addresses.insert(address);
                continue;
            }
            match listener(address) {
                Ok(listener) => {
                    listeners.push((address, listener));
                    addresses.insert(address);
                }
                Err(error) => findings.push(format!("take requests at {address}: {error}")),
            }
        }
        self.addresses.clone_from(&addresses);
        // Its receiver lives as long as this.
        let _ = self.endpoints.send(Endpoints { secrets, addresses, listeners });
        findings
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn secrets(api: &model::Api) -> Result<Option<Secrets>, String> {
    if api.listen.is_empty() {
        return Ok(None);
    }
    let failed = |path: &str, error: &dyn std::error::Error| format!("read {path} for requests by HTTPS: {error}");
    let chain = CertificateDer::pem_file_iter(&api.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| failed(&api.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&api.key).map_err(|error| failed(&api.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| failed(&api.certificate, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Ok(Some(Secrets { acceptor, tokens: api.tokens.clone().into() }))
}

impl Secrets {
    /// Who bears the request's token.
    ///
    /// # Errors
    /// Nobody.
    pub fn asker(&self, headers: &HeaderMap, from: SocketAddr) -> Result<Asker, Problem> {
        let refused = |detail: &str| Err(Problem::new(Sort::Unauthorized, detail));
        let Some(authorization) = headers.get(header::AUTHORIZATION) else {
            return refused("this takes a token: `Authorization: Bearer …`");
        };
        // RFC 6750 §2.1.
        let secret = authorization.to_str().ok().and_then(|value| {
            let (scheme, secret) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
        });
        let Some(secret) = secret else { return refused("this takes a token: `Authorization: Bearer …`") };
        let shown = digest(&SHA256, secret.as_bytes());
        // Digests: how long a comparison takes tells nothing about a secret.
        match self.tokens.iter().find(|token| token.digest == shown.as_ref()) {
            Some(token) => Ok(Asker { access: token.access, name: format!("token {}, {from}", token.name) }),
            None => refused("this token is not known here"),
        }
    }
}

/// A secret and its digest, in hexadecimal digits.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn new_token() -> io::Result<(String, String)> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let secret = hex(&bytes);
    let shown = hex(digest(&SHA256, secret.as_bytes()).as_ref());
    Ok((secret, shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_known_by_what_the_configuration_says_of_it() {
        let (secret, shown) = new_token().unwrap();
        let text = format!(
            "[router]\noutside = 'eth0'\n[api]\nlisten = '192.0.2.1:8443'\ncertificate = '/c'\nkey = '/k'\n[[api.token]]\n\
             name = 'me'\naccess = 'read'\nsha256 = '{shown}'"
        );
        let tokens = marca_config::load("marca.toml", &text).unwrap().config.api.tokens;
        assert_eq!(tokens[0].digest, digest(&SHA256, secret.as_bytes()).as_ref());
    }
}
