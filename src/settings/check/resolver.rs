//! How the names of servers are looked up.

use super::Check;
use crate::settings::ResolverSettings;
use crate::settings::raw::RawResolver;
use crate::settings::value;

const SERVERS_MAX: usize = 8;

pub(super) fn resolver(raw: &RawResolver, check: &mut Check<'_>) -> Option<ResolverSettings> {
    let example = (SERVERS_MAX, r#"["10.0.0.2", "[fd00::2]:53"]"#);
    let servers = check.read_list("resolver.servers", &raw.servers, example, value::name_server);
    let min_ttl = check.read("resolver.min_ttl", &raw.min_ttl, value::duration_above_zero);
    let max_ttl = check.read("resolver.max_ttl", &raw.max_ttl, value::duration_above_zero);
    let max_stale = check.read("resolver.max_stale", &raw.max_stale, value::duration_or_zero);
    if let (Some(min), Some(max)) = (min_ttl, max_ttl)
        && min > max
    {
        let expected = "expected not less than resolver.min_ttl".to_owned();
        check.refuse_in_context("resolver.max_ttl", &raw.max_ttl, expected);
    }
    Some(ResolverSettings { servers: servers?, min_ttl: min_ttl?, max_ttl: max_ttl?, max_stale: max_stale? })
}
