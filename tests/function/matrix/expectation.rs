//! What can go wrong at a request, and how a copy may end then.
//!
//! An ending is an outcome (`copied`) or the kind of an error.

use support::http::{Fault, Request};

/// The tag that is copied.
pub(super) const TAG: &str = "1";

/// A server that a copy speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ghcr,
    /// Where GHCR redirects the reads of blobs to.
    Storage,
    Ecr,
}

/// What a request is for, in the order in which a copy makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Ping,
    Token,
    GetTag,
    HeadTag,
    GetManifest,
    HeadManifest,
    HeadBlob,
    GetBlob,
    GetStorage,
    PostUpload,
    PutBlob,
    PutManifest,
    PutTag,
    /// As `HeadTag`, after the tag was written.
    ReadBack,
}

use Operation::*;

impl Operation {
    /// Those that can be told from others by method and path, and how: the server, the method and a part of the path.
    pub(super) const SCRIPTED: [(Operation, Place, &'static str, &'static str); 12] = [
        (Token, Place::Ghcr, "GET", "/token"),
        (GetTag, Place::Ghcr, "GET", "/manifests/1"),
        (HeadTag, Place::Ecr, "HEAD", "/manifests/1"),
        (GetManifest, Place::Ghcr, "GET", "/manifests/sha256:"),
        (HeadManifest, Place::Ecr, "HEAD", "/manifests/sha256:"),
        (HeadBlob, Place::Ecr, "HEAD", "/blobs/"),
        (GetBlob, Place::Ghcr, "GET", "/blobs/"),
        (GetStorage, Place::Storage, "GET", "/"),
        (PostUpload, Place::Ecr, "POST", "/blobs/uploads/"),
        (PutBlob, Place::Ecr, "PUT", "/blobs/uploads/"),
        (PutManifest, Place::Ecr, "PUT", "/manifests/sha256:"),
        (PutTag, Place::Ecr, "PUT", "/manifests/1"),
    ];

    /// What the request at `index` of a server's log is for.
    pub(super) fn of(place: Place, requests: &[Request], index: usize) -> Operation {
        let is_for = |request: &Request, method: &str, part: &str| {
            request.method == method && request.path.contains(part)
        };
        let tag_was_put = requests[..index]
            .iter()
            .any(|request| is_for(request, "PUT", "/manifests/1"));
        let scripted = Operation::SCRIPTED
            .into_iter()
            .find(|(_, at, method, part)| *at == place && is_for(&requests[index], method, part));
        match scripted {
            Some((HeadTag, ..)) if tag_was_put => ReadBack,
            Some((operation, ..)) => operation,
            None => Ping,
        }
    }

    /// Whether the answer has a body that the function reads.
    fn has_body(self) -> bool {
        matches!(self, Token | GetTag | GetManifest | GetStorage)
    }
}

/// Faults that call for the same endings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// There is no answer.
    Broken,
    /// There is a body and it goes wrong from this byte on.
    Body(u64),
    /// The connection stays, and nothing comes.
    Silent,
    /// The same in the middle of a body, if there is one.
    Stalled,
    Busy,
    Throttled,
    Unauthorized,
    Forbidden,
    /// ECR's words for an authorization that has run out.
    Expired,
    Missing,
    Range,
    /// A success that does not say what was asked for.
    Page,
    ToItself,
    /// A redirect to an address inside somebody's network.
    ToPrivate,
    /// A redirect to a server that has something else.
    ToForeign,
}

use Class::*;

impl Class {
    /// Whether only time ends it.
    pub(super) fn is_silent(self) -> bool {
        matches!(self, Silent | Stalled)
    }
}

/// A fault, what it is called and what it calls for.
pub(super) struct Trouble {
    pub(super) name: &'static str,
    pub(super) class: Class,
    pub(super) fault: Fault,
}

/// All of them, the silent ones last. Challenges name the token service of `ghcr`; `foreign` is another server.
pub(super) fn troubles(ghcr: &str, foreign: &str) -> Vec<Trouble> {
    let status = |status: u16, headers: &[(&str, &str)], body: &str| Fault::Status {
        status,
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.to_owned(),
    };
    let refusal = |code: u16, name: &str, message: &str| {
        let body = format!(r#"{{"errors":[{{"code":"{name}","message":"{message}"}}]}}"#);
        status(code, &[("content-type", "application/json")], &body)
    };
    let throttled = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Rate exceeded"}]}"#;
    // The words of GHCR. (oras-project/oras, issue 1494 and others)
    let hinted = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 985.86µs, allowed: 44000/minute"}]}"#;
    let page = "<html><body>This page is taking too long to load</body></html>";
    let html = [("content-type", "text/html; charset=utf-8")];
    let challenge = format!(
        r#"Bearer realm="{ghcr}/token",service="ghcr.io",scope="repository:user/image:pull""#
    );
    let unauthorized = r#"{"errors":[{"code":"UNAUTHORIZED","message":"invalid token"}]}"#;
    let expired = "Your authorization token has expired. Reauthenticate and try again.";
    let out_of_step = "First byte of the layer part is 0 instead of 4";
    let foreign = format!("{foreign}/blob?sig=elsewhere");
    let to = |location: &str| status(307, &[("location", location)], "");
    let troubles = [
        ("refused", Broken, Fault::Refuse(1)),
        ("reset at once", Broken, Fault::ResetRequestAfter(0)),
        ("reset in the request", Broken, Fault::ResetRequestAfter(30)),
        ("reset after the request", Broken, Fault::ResetReply),
        ("closed after the request", Broken, Fault::DropReply),
        ("body cut early", Body(30), Fault::DropBodyAfter(30)),
        ("body cut late", Body(12_345), Fault::DropBodyAfter(12_345)),
        ("body reset", Body(30), Fault::ResetBodyAfter(30)),
        ("body truncated", Body(30), Fault::Truncate(30)),
        ("byte corrupted", Body(30), Fault::CorruptByte(30)),
        (
            "401",
            Unauthorized,
            status(401, &[("www-authenticate", &challenge)], unauthorized),
        ),
        (
            "403",
            Forbidden,
            refusal(403, "DENIED", "requested access is denied"),
        ),
        ("403 expired", Expired, refusal(403, "DENIED", expired)),
        ("404", Missing, refusal(404, "NAME_UNKNOWN", "not found")),
        ("408", Busy, status(408, &[], "")),
        (
            "416",
            Range,
            refusal(416, "BLOB_UPLOAD_INVALID", out_of_step),
        ),
        (
            "429 in 1 s",
            Throttled,
            status(429, &[("retry-after", "1")], throttled),
        ),
        ("429", Throttled, status(429, &[], throttled)),
        (
            "429 in 986 µs",
            Throttled,
            status(429, &[("retry-after", "985.86µs")], hinted),
        ),
        ("500", Busy, status(500, &[], "")),
        ("502 HTML", Busy, status(502, &html, page)),
        (
            "503",
            Busy,
            refusal(503, "UNAVAILABLE", "service unavailable"),
        ),
        ("200 HTML", Page, status(200, &html, page)),
        ("200 empty", Page, status(200, &[], "")),
        ("307 to itself", ToItself, Fault::RedirectToItself),
        (
            "307 to metadata",
            ToPrivate,
            to("http://169.254.169.254/latest/meta-data"),
        ),
        (
            "307 to 10/8",
            ToPrivate,
            to("http://10.255.255.1/blob?sig=elsewhere"),
        ),
        ("307 elsewhere", ToForeign, to(&foreign)),
        ("no answer", Silent, Fault::Hold),
        ("body stalled", Stalled, Fault::StallBodyAfter(30)),
    ];
    let with_name = |(name, class, fault)| Trouble { name, class, fault };
    troubles.into_iter().map(with_name).collect()
}

const COPIED: &[&str] = &["copied"];

/// How a copy may end that meets such a fault once.
pub(super) fn once(class: Class, operation: Operation) -> &'static [&'static str] {
    match (class, operation) {
        // A commit may take two minutes, which is more than the invocation has.
        (Silent, PutBlob) => &["copied", "Deadline"],
        (Broken | Body(_) | Silent | Stalled | Busy | Throttled, _) => COPIED,
        // A bearer token that has run out is replaced, once: each copy here begins with such a one, and two refusals of one request
        // are believed.
        (Unauthorized, GetTag) | (Page, Ping) => &["copied", "Denied"],
        (Unauthorized, Ping | GetManifest | GetBlob) => COPIED,
        // GHCR may say so with 403 too: a token that was accepted before is replaced, and a new one's refusal is believed.
        (Forbidden | Expired, GetTag) => &["copied", "Denied"],
        (Forbidden | Expired, GetManifest | GetBlob) => COPIED,
        (Unauthorized, GetStorage) => &["copied", "Denied"],
        // A signed URL that has run out is replaced.
        (Forbidden | Expired, GetStorage) => COPIED,
        // The answer to a HEAD has no body, so a GET asks for the reason.
        (Unauthorized | Forbidden | Expired, HeadTag | HeadManifest | ReadBack) => COPIED,
        // AWS has no other authorization to give here.
        (Unauthorized | Expired, HeadBlob | PostUpload | PutBlob | PutManifest | PutTag) => {
            &["copied", "Denied"]
        }
        (Unauthorized | Forbidden | Expired, _) => &["Denied"],
        (Missing, HeadTag | HeadManifest | HeadBlob) => COPIED,
        // ECR may be late to show what was written: it is looked for until it does.
        (Missing, ReadBack) => COPIED,
        (Missing, GetStorage) => &["copied", "NotFound"],
        (Missing, _) => &["NotFound"],
        (Range, PostUpload | PutBlob) => COPIED,
        (Range, _) => &["copied", "Invalid"],
        // Believed, and found out by the manifest that lacks its blob: then everything is looked at again.
        (Page | ToPrivate, HeadBlob) => COPIED,
        (Page, PostUpload | PutBlob | PutManifest | PutTag) => &["copied", "Transient", "Invalid"],
        (Page, _) => COPIED,
        (ToItself, GetStorage) => COPIED,
        // Followed without the credential, which is what a registry's own redirect gets too.
        (ToItself, GetBlob) => &["copied", "Denied", "Invalid"],
        (ToItself | ToForeign, HeadBlob) => &["copied", "Transient", "Invalid"],
        (ToItself, _) | (ToForeign, GetBlob | GetStorage) => &["copied", "Invalid"],
        (ToPrivate | ToForeign, _) => &["Invalid"],
    }
}

/// How a copy may end that meets such a fault at every request of this operation.
pub(super) fn for_ever(class: Class, operation: Operation) -> &'static [&'static str] {
    let is_effective = |from: u64| operation.has_body() && (from < 100 || operation == GetStorage);
    match (class, operation) {
        (Stalled, _) if !operation.has_body() => COPIED,
        (Silent | Stalled, _) => &["Deadline"],
        // The blob or manifest may be there, although nobody says so.
        (Broken, PutBlob | PutManifest | PutTag) => &["copied", "Transient"],
        (Broken | Busy, _) => &["Transient"],
        (Throttled, _) => &["Transient", "Deadline"],
        (Body(from), _) if !is_effective(from) => COPIED,
        (Body(_), _) => &["Transient", "Invalid"],
        (Unauthorized | Forbidden | Expired, HeadTag | HeadManifest) => COPIED,
        (Unauthorized | Forbidden | Expired, GetStorage) => &["Denied", "Transient"],
        (Unauthorized | Forbidden | Expired, _) => &["Denied"],
        (Missing, HeadManifest | HeadBlob) => COPIED,
        (Missing, HeadTag) => &["Transient"],
        (Missing, _) => &["NotFound"],
        (Page, HeadTag | HeadManifest) => COPIED,
        (Page, Token) => &["Transient"],
        (Range | Page | ToForeign, _) | (ToItself | ToPrivate, HeadBlob) => {
            &["Transient", "Invalid"]
        }
        (ToItself | ToPrivate, _) => &["Invalid"],
    }
}
