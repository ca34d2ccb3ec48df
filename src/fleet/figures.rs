//! A heartbeat as metrics for node_exporter's textfile collector (Prometheus text exposition format 0.0.4).

use std::fmt::Write;

use super::heartbeat::{DeviceState, Heartbeat};

/// The text of the metrics file.
pub fn text(heartbeat: &Heartbeat, is_connected: bool) -> String {
    let (queue, counts) = (&heartbeat.queue, &heartbeat.counts);
    let is_pulling = heartbeat.state == DeviceState::Pulling;
    let gauges = [
        ("connected", "1 while there is a server.", f64::from(is_connected)),
        ("pulling", "1 while jobs are pulled.", f64::from(is_pulling)),
        ("written_timestamp_seconds", "When this was written.", heartbeat.at),
        ("jobs", "Jobs of the fleet in the spool.", queue.fleet as f64),
        ("adapters", "Adapters of the fleet that are here.", heartbeat.adapters.len() as f64),
    ];
    let counters = [
        ("jobs_pulled_total", "Jobs that the queue gave to this device.", counts.pulled),
        ("jobs_answered_total", "Answers of this device that count.", counts.answered),
        ("jobs_failed_total", "Of them, those in which a request failed.", counts.failed),
        ("jobs_refused_total", "Jobs that were answered with an error without being run.", counts.refused),
        ("jobs_duplicate_total", "Jobs that were answered already.", counts.duplicates),
        ("jobs_given_back_total", "Jobs that went back to the queue.", counts.given_back),
        ("jobs_dead_total", "Jobs that went to the dead letters.", counts.dead),
    ];
    let mut text = String::new();
    let label = format!("device=\"{}\",model=\"{}\"", heartbeat.device, heartbeat.model);
    let mut line = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "# HELP jetspool_bridge_{name} {help}\n# TYPE jetspool_bridge_{name} {kind}\n\
             jetspool_bridge_{name}{{{label}}} {value}\n"
        );
    };
    gauges.into_iter().for_each(|(name, help, value)| line(name, "gauge", help, value));
    counters.into_iter().for_each(|(name, help, value)| line(name, "counter", help, value as f64));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_labels() {
        let heartbeat = Heartbeat { device: "jetson-1".into(), model: "demo".into(), ..Heartbeat::default() };
        let text = text(&heartbeat, true);
        assert!(text.contains("jetspool_bridge_connected{device=\"jetson-1\",model=\"demo\"} 1\n"), "{text}");
        let values = text.lines().filter(|line| !line.starts_with('#'));
        assert!(
            values.clone().count() == 12 && values.clone().all(|line| line.contains("device=")),
            "{text}"
        );
    }
}
