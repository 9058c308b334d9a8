//! Where a request comes from: the peer of the connection, or who a proxy says, if it is one of ours
//! (`http.trusted_proxies`). What anybody else writes into `X-Forwarded-For` is not believed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::App;
use super::error::ApiError;
use crate::config::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Of the client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address(pub(super) IpAddr);

impl FromRequestParts<Arc<App>> for Address {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<Peer>();
        let Peer(peer) = peer.ok_or_else(|| ApiError::unavailable("It is not known where the request comes from."))?;
        Ok(Self(client(*peer, &parts.headers, &app.config.http.trusted_proxies)))
    }
}

/// The right-most address that is no proxy of ours: each proxy adds the one from which it was called. Where there is
/// something else than an address, nothing to the left of it is believed.
fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
    let is_ours = |address: &IpAddr| proxies.iter().any(|network| network.contains(*address));
    let mut client = peer.to_canonical();
    let lists = headers.get_all(X_FORWARDED_FOR).iter().map(|list| list.to_str().unwrap_or_default());
    let hops: Vec<&str> = lists.flat_map(|list| list.split(',')).collect();
    for hop in hops.into_iter().rev() {
        if !is_ours(&client) {
            break;
        }
        let Some(address) = address(hop.trim()) else { break };
        client = address;
    }
    client
}

/// With or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_our_proxies_are_believed() {
        let proxies: Vec<Network> =
            ["10.0.0.0/8", "192.0.2.1", "fd00::/8"].iter().map(|text| text.parse().unwrap()).collect();
        for (peer, forwarded, expected) in [
            ("203.0.113.9", &[][..], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("fd00::7", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.1.2.3", &["198.51.100.1:80"], "198.51.100.1"),
            // What the client itself has written stands to the left.
            ("10.1.2.3", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            ("10.1.2.3", &["1.1.1.1", "198.51.100.1, 192.0.2.1"], "198.51.100.1"),
            ("10.1.2.3", &["10.9.9.9, 10.1.1.1"], "10.9.9.9"),
            ("10.1.2.3", &["1.1.1.1, unknown"], "10.1.2.3"),
            ("10.1.2.3", &["1.1.1.1, unknown, 10.1.1.1"], "10.1.1.1"),
        ] {
            let mut headers = HeaderMap::new();
            for list in forwarded {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(list));
            }
            let found = client(peer.parse().unwrap(), &headers, &proxies);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }
}
