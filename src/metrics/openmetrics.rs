//! Metrics as OpenMetrics 1.0.0 has them, which the `prometheus` crate does not write.
//!
//! It differs from the text format of Prometheus in little: a counter's family is named without `_total`, and the end is
//! marked (OpenMetrics 1.0.0, "Text format").

use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

const TOTAL: &str = "_total";

/// Counters, gauges and histograms; anything else is left out, there is none.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            _ => continue,
        };
        let name = match kind {
            "counter" => family.name().strip_suffix(TOTAL).unwrap_or(family.name()),
            _ => family.name(),
        };
        // Writing to a string does not fail.
        writeln!(text, "# TYPE {name} {kind}").ok();
        writeln!(text, "# HELP {name} {}", escaped(family.help())).ok();
        for metric in family.get_metric() {
            write(&mut text, name, kind, metric);
        }
    }
    text.push_str("# EOF\n");
    text
}

fn write(text: &mut String, name: &str, kind: &str, metric: &Metric) {
    let labels = metric.get_label();
    match kind {
        "counter" => sample(text, &format!("{name}{TOTAL}"), labels, None, metric.get_counter().get_value()),
        "gauge" => sample(text, name, labels, None, metric.get_gauge().get_value()),
        _ => {
            let histogram = metric.get_histogram();
            let bucket_name = format!("{name}_bucket");
            for bucket in histogram.get_bucket() {
                let bound = format!("{:?}", bucket.upper_bound());
                sample(text, &bucket_name, labels, Some(&bound), bucket.cumulative_count() as f64);
            }
            let count = histogram.get_sample_count() as f64;
            sample(text, &bucket_name, labels, Some("+Inf"), count);
            sample(text, &format!("{name}_count"), labels, None, count);
            sample(text, &format!("{name}_sum"), labels, None, histogram.get_sample_sum());
        }
    }
}

fn sample(text: &mut String, name: &str, labels: &[LabelPair], bound: Option<&str>, value: f64) {
    text.push_str(name);
    let labels =
        labels.iter().map(|label| (label.name(), label.value())).chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (name, value) in labels {
        write!(text, "{separator}{name}=\"{}\"", escaped(value)).ok();
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    writeln!(text, " {value}").ok();
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}
