//! `X-Request-Id`: a client's name for a request, or one of ours. It stands in the answer and in the log.

use axum::extract::Request;
use axum::http::HeaderName;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST: usize = 128;

/// Takes away what is no good name, so that the request gets one of ours: the log is not for clients to write.
pub(super) async fn keep_if_good(mut request: Request) -> Request {
    let mut values = request.headers().get_all(X_REQUEST_ID).iter();
    let is_kept = matches!((values.next(), values.next()), (Some(id), None) if is_good(id.as_bytes()));
    if !is_kept {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

fn is_good(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
    (1..=LONGEST).contains(&id.len()) && id.iter().all(is_plain)
}
