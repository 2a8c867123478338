//! What contradicts what. Each check works on a draft and keeps silent where a hole in it (something that was
//! refused, with a diagnostic of its own) may be the reason for what it finds.

mod api;
mod availability;
mod claims;
mod ftp;
mod fullnat;
mod health;
mod marks;
mod servers;
mod service;

use crate::diagnostic::Diagnostic;
use crate::draft::Draft;

/// All contradictions of a file.
pub(crate) fn check(draft: &Draft) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    api::check(&draft.api, &mut found);
    for each in &draft.services {
        service::check(each, &draft.marks, &mut found);
        ftp::check(each, &mut found);
        servers::check(each, &draft.marks, &mut found);
        availability::check(each, &draft.marks, &mut found);
        health::check(each, &draft.marks, &mut found);
    }
    claims::check(&draft.services, &mut found);
    ftp::passive_ports(&draft.services, &mut found);
    claims::outbound(&draft.services, &draft.marks, &mut found);
    marks::check(draft, &mut found);
    fullnat::sources(draft, &mut found);
    found
}
