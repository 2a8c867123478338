//! Handshakes, and what a certificate must say. Who has signed it is not looked at: real servers have certificates of
//! their own making more often than not.

use super::stream::Connection;
use super::{Fault, fault};
use marca_config::model;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio_rustls::TlsConnector;

pub(super) type Stream = tokio_rustls::client::TlsStream<Connection>;

/// What is said by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Anything,
    Http1,
    Http2,
}

/// What a handshake is made with, and what it must end in.
#[derive(Debug)]
pub(super) struct Wish {
    /// For SNI. None: nothing.
    asked: Option<ServerName<'static>>,
    /// What the certificate must be for.
    certified: Option<(ServerName<'static>, String)>,
    expiry: Option<Duration>,
    speaks: Speaks,
}

impl Wish {
    /// `host` is asked for where no name is wanted.
    pub fn new(wanted: &model::Tls, host: Option<&str>, speaks: Speaks) -> Result<Self, &'static str> {
        let name = |text: &str| ServerName::try_from(text.to_owned()).map_err(|_| "the name cannot be asked for");
        let certified = match wanted.server_name.as_deref() {
            Some(text) => Some((name(text)?, text.to_owned())),
            None => None,
        };
        let asked = match (&certified, host) {
            (Some((name, _)), _) => Some(name.clone()),
            // One with a port, or an address, is none.
            (None, Some(host)) => name(host.split(':').next().unwrap_or(host)).ok(),
            (None, None) => None,
        };
        Ok(Self { asked, certified, expiry: wanted.expiry, speaks })
    }

    pub async fn shake_hands(&self, stream: Connection, address: IpAddr) -> Result<Stream, Fault> {
        let asked = self.asked.clone().unwrap_or_else(|| ServerName::IpAddress(address.into()));
        let connector = TlsConnector::from(Arc::clone(config(self.speaks)));
        let stream = connector.connect(asked, stream).await.map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<Error>() => Fault::Theirs(format!("TLS: {inner}")),
            _ => fault("TLS handshake", &error),
        })?;
        let (_, connection) = stream.get_ref();
        if self.speaks == Speaks::Http2 && connection.alpn_protocol() != Some(b"h2") {
            return Err(Fault::Theirs("it does not offer HTTP/2".into()));
        }
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        match certificate {
            Some(certificate) => self.judge(certificate, UnixTime::now()).map_err(Fault::Theirs)?,
            None => return Err(Fault::Theirs("it has no certificate".into())),
        }
        Ok(stream)
    }

    fn judge(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), String> {
        let unreadable = |error: String| format!("its certificate cannot be read: {error}");
        if let Some((name, text)) = &self.certified {
            let parsed = ParsedCertificate::try_from(certificate).map_err(|error| unreadable(error.to_string()))?;
            if rustls::client::verify_server_name(&parsed, name).is_err() {
                return Err(format!("its certificate is not for {text}"));
            }
        }
        let Some(expiry) = self.expiry else { return Ok(()) };
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|error| unreadable(error.to_string()))?;
        let end = parsed.validity().not_after.timestamp();
        let left = end.saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let in_words =
            |seconds: i64| marca_config::text::duration::print(Duration::from_secs(seconds.unsigned_abs() / 60 * 60));
        if left < 0 {
            return Err(format!("its certificate has expired {} ago", in_words(left)));
        }
        if left.unsigned_abs() < expiry.as_secs() {
            return Err(format!("its certificate expires in {}", in_words(left)));
        }
        Ok(())
    }
}

/// One for each; sessions are not resumed, so that each check sees a whole handshake.
fn config(speaks: Speaks) -> &'static Arc<ClientConfig> {
    static CONFIGS: LazyLock<[Arc<ClientConfig>; 3]> =
        LazyLock::new(|| [&[][..], &[&b"http/1.1"[..]], &[&b"h2"[..]]].map(|alpn| Arc::new(configured(alpn))));
    match speaks {
        Speaks::Anything => &CONFIGS[0],
        Speaks::Http1 => &CONFIGS[1],
        Speaks::Http2 => &CONFIGS[2],
    }
}

fn configured(alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let any = Arc::new(Anyone(Arc::clone(&provider)));
    // The provider has both versions; were it not so, the fault would be the program's.
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("ring has TLS 1.2 and 1.3");
    let mut config = builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Whoever has the key that belongs to the certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2024, 1, 1), rcgen::date_time_ymd(2024, 3, 1));
        params.self_signed(&key).unwrap().into()
    }

    fn judged(server_name: Option<&str>, expiry_days: Option<u64>, days_before_its_end: i64) -> Result<(), String> {
        let wanted = model::Tls {
            server_name: server_name.map(str::to_owned),
            expiry: expiry_days.map(|days| Duration::from_secs(days * 86_400)),
        };
        // 2024-03-01.
        let now = 1_709_251_200 - days_before_its_end * 86_400;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()));
        Wish::new(&wanted, None, Speaks::Anything).unwrap().judge(&certificate("shop.example.com"), now)
    }

    #[test]
    fn a_certificate_is_for_the_name_that_is_wanted() {
        assert_eq!(judged(Some("shop.example.com"), None, 1), Ok(()));
        let other = judged(Some("files.example.com"), None, 1);
        assert_eq!(other, Err("its certificate is not for files.example.com".into()));
        assert_eq!(judged(None, None, -100), Ok(()), "nobody has asked");
    }

    #[test]
    fn a_certificate_is_valid_for_long_enough() {
        assert_eq!(judged(None, Some(14), 15), Ok(()));
        assert_eq!(judged(None, Some(14), 13), Err("its certificate expires in 13d".into()));
        assert_eq!(judged(None, Some(0), 1), Ok(()));
        assert_eq!(judged(None, Some(0), -2), Err("its certificate has expired 2d ago".into()));
    }

    #[test]
    fn an_address_is_not_asked_for_by_name() {
        let asked = |host: &str| Wish::new(&model::Tls::default(), Some(host), Speaks::Http1).unwrap().asked;
        assert_eq!(asked("shop.example.com:8443"), ServerName::try_from("shop.example.com").ok());
        assert!(Wish::new(&model::Tls::default(), None, Speaks::Http1).unwrap().asked.is_none());
    }
}
