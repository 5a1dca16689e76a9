//! Answers that many operations give, for the OpenAPI document: each once, under `components/responses`, and the sets that
//! stand at the operations. It describes only; `problem.rs` makes the answers. The tests of the API hold every answer against
//! the document.
//!
//! An operation names [`Served`], or [`Read`] or [`Committed`] which contain it, [`Sent`] where it takes a body, and then what
//! is its own, which stands instead of what the sets say of that status.

use std::collections::BTreeMap;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoResponses, ToResponse};

/// What problem documents are sent as.
pub(super) const PROBLEM: &str = "application/problem+json";

/// When to come back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Told,
    NotTold,
}

macro_rules! problem {
    ($name:ident, $again:ident, $text:literal) => {
        #[doc = $text]
        pub(super) struct $name;

        impl<'r> ToResponse<'r> for $name {
            fn response() -> (&'r str, RefOr<Response>) {
                (stringify!($name), RefOr::T(described($text, Again::$again)))
            }
        }
    };
}

problem!(
    Invalid,
    NotTold,
    "A field, a parameter, the path or the body is wrong, or it is no HTTP/1.1; nothing was done"
);
problem!(
    NoToken,
    NotTold,
    "On TCP, unless `http.public_status` says otherwise: this needs a token, and there are none yet"
);
problem!(
    NotAllowed,
    NotTold,
    "Not for this user: in no group of the socket, or no admin. On TCP: asked by a page of another site"
);
problem!(NoJob, NotTold, "There is no such job");
problem!(NoSchedule, NotTold, "There is no such schedule");
problem!(Declared, NotTold, "The configuration declares that schedule: it is changed and removed there");
problem!(Slow, NotTold, "The head or the body did not arrive within 30 s; on TCP the head within 5 s");
problem!(TooLarge, NotTold, "The body is larger than 64 MiB");
problem!(LongTarget, NotTold, "The path with its query is longer than 65,534 bytes");
problem!(
    LargeHead,
    NotTold,
    "The line of the request and its headers are larger than 64 KiB, or there are more than 64 headers"
);
problem!(WrongHost, NotTold, "On TCP: `Host` names another server");
problem!(KeyReused, NotTold, "The idempotency key was used with another request in the last 24 h");
problem!(
    SchedulesFull,
    NotTold,
    "There are as many schedules as there may be, or their jobs are as large; nothing was added"
);
problem!(TooMany, Told, "One user holds too many connections");
problem!(Failed, NotTold, "The store or the file system failed; nothing was kept");
problem!(NotNow, Told, "The daemon is going away, too many ask at once, or all connections are in use");
problem!(
    NotTaken,
    Told,
    "The daemon is going away, the queue is full, or too many ask at once; nothing was taken unless it says so"
);
problem!(Late, NotTold, "No answer within 90 s; what was asked may still happen");
problem!(DiskFull, NotTold, "The disk is full; nothing was kept");

fn described(text: &str, again: Again) -> Response {
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(text).content(PROBLEM, problem);
    if again == Again::NotTold {
        return response.build();
    }
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
    let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds after which to come back"));
    response.header("Retry-After", header.build()).build()
}

type Responses = BTreeMap<String, RefOr<Response>>;

fn refer<'r, T: ToResponse<'r>>(status: u16) -> (String, RefOr<Response>) {
    (status.to_string(), RefOr::Ref(Ref::from_response_name(T::response().0)))
}

/// Every operation, before it is looked at.
pub(super) struct Served;

impl IntoResponses for Served {
    fn responses() -> Responses {
        let unasked = [refer::<Invalid>(400), refer::<Slow>(408), refer::<LongTarget>(414), refer::<LargeHead>(431)];
        let refused = [refer::<NotAllowed>(403), refer::<TooMany>(429), refer::<NotNow>(503)];
        unasked.into_iter().chain(refused).collect()
    }
}

/// Every operation that TCP may be asked for, too.
pub(super) struct ServedOnTcp;

impl IntoResponses for ServedOnTcp {
    fn responses() -> Responses {
        Served::responses().into_iter().chain([refer::<WrongHost>(421)]).collect()
    }
}

/// Operations that read the store or wait for the loop.
pub(super) struct Read;

impl IntoResponses for Read {
    fn responses() -> Responses {
        Served::responses().into_iter().chain([refer::<Failed>(500), refer::<Late>(504)]).collect()
    }
}

/// Operations that commit.
pub(super) struct Committed;

impl IntoResponses for Committed {
    fn responses() -> Responses {
        Read::responses().into_iter().chain([refer::<NotTaken>(503), refer::<DiskFull>(507)]).collect()
    }
}

/// Operations that take a body.
pub(super) struct Sent;

impl IntoResponses for Sent {
    fn responses() -> Responses {
        [refer::<TooLarge>(413)].into()
    }
}
