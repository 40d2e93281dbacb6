use super::*;

#[test]
fn a_client_gets_the_format_that_it_asks_for() {
    // As Prometheus 2.42 asks.
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
    for accept in ["", "*/*", "text/plain", "text/html, application/openmetrics-text;q=0"] {
        assert_eq!(Format::wanted(accept), Format::Text, "{accept}");
    }
}
