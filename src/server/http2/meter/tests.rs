use super::*;

const WINDOW_UPDATE: u8 = 8;
const PRIORITY: u8 = 2;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

fn reset(code: u8) -> Vec<u8> {
    frame(RST_STREAM, 0, &[0, 0, 0, code])
}

fn meter(resets: u32, control: u32) -> Meter {
    let limits = Limits { resets_per_minute: resets, control_frames_per_minute: control, trailer_bytes: 100 };
    let mut meter = Meter::new(limits, Instant::now());
    meter.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Instant::now());
    meter
}

#[test]
fn frames_are_found_however_their_bytes_are_cut() {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for part in [
        frame(SETTINGS, 0, &[0; 12]),
        frame(HEADERS, 5, &[b'x'; 300]),
        reset(8),
        // A malformed one, for h2 to find.
        frame(RST_STREAM, 0, &[1, 2]),
        frame(RST_STREAM, 0, &[]),
        frame(RST_STREAM, 0, &[0, 0, 0, 1, 9, 9]),
        frame(PING, ACK, &[0; 8]),
        frame(DATA, 0, &[]),
        frame(0xfa, 0xff, &[7; 70_000]),
        frame(DATA, END_STREAM, &[3]),
    ] {
        bytes.extend(part);
    }
    let found = |sizes: &mut dyn Iterator<Item = usize>| {
        let (mut follower, mut frames, mut rest) = (Follower::behind_preface(), Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(sizes.next().unwrap()));
            follower.feed(now, |passed| {
                if let Passed::End(frame) = passed {
                    frames.push(frame);
                }
            });
            rest = later;
        }
        frames
    };
    let whole = found(&mut std::iter::repeat(bytes.len()));
    let lengths: Vec<_> = whole.iter().map(|frame| (frame.kind, frame.length, frame.code)).collect();
    assert_eq!(
        lengths,
        [
            (SETTINGS, 12, None),
            (HEADERS, 300, None),
            (RST_STREAM, 4, Some(8)),
            (RST_STREAM, 2, None),
            (RST_STREAM, 0, None),
            (RST_STREAM, 6, Some(1)),
            (PING, 8, None),
            (DATA, 0, None),
            (0xfa, 70_000, None),
            (DATA, 1, None),
        ]
    );
    for size in [1, 2, 3, 5, 8, 9, 10, 13, 1000] {
        assert_eq!(found(&mut std::iter::repeat(size)), whole, "in pieces of {size}");
    }
    for at in 1..500 {
        assert_eq!(found(&mut [at, bytes.len()].into_iter()), whole, "cut at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn resets_are_counted_and_forgiven_with_time() {
    let mut meter = meter(3, 10);
    for _ in 0..3 {
        meter.received(&reset(8), Instant::now());
    }
    assert_eq!(meter.flood(), None);
    tokio::time::advance(Duration::from_secs(21)).await;
    meter.received(&reset(8), Instant::now());
    assert_eq!(meter.flood(), None);
    meter.received(&reset(8), Instant::now());
    assert_eq!(meter.flood(), Some(Flood::Resets));
}

#[test]
fn a_stream_that_ends_in_order_pays_for_a_reset() {
    let mut meter = meter(3, 10);
    for _ in 0..1000 {
        meter.finished();
        meter.received(&reset(8), Instant::now());
    }
    assert_eq!(meter.flood(), None);
}

/// "Made you reset": the client sends what makes us reset a stream on which work is under way.
#[test]
fn resets_that_the_client_brings_about_are_its_own() {
    let now = Instant::now();
    for code in [1, 3, 5, 6, 7] {
        let mut meter = meter(3, 10);
        (0..4).for_each(|_| meter.sent(&reset(code), now));
        assert_eq!(meter.flood(), Some(Flood::Resets), "code {code}");
    }
    for code in [0, 2, 8, 11] {
        let mut meter = meter(3, 10);
        (0..4).for_each(|_| meter.sent(&reset(code), now));
        assert_eq!(meter.flood(), None, "code {code}");
    }
}

#[test]
fn frames_that_carry_no_request_are_counted() {
    let now = Instant::now();
    for (kind, flags, payload) in [
        (PING, 0, &[0; 8][..]),
        (PING, ACK, &[0; 8]),
        (SETTINGS, 0, &[]),
        (SETTINGS, ACK, &[]),
        (PRIORITY, 0, &[0; 5]),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (DATA, 0, &[]),
        (0xbe, 0, &[]),
        (7, 0, &[0; 8]),
    ] {
        let mut meter = meter(3, 10);
        (0..10).for_each(|_| meter.received(&frame(kind, flags, payload), now));
        assert_eq!(meter.flood(), None, "type {kind}");
        meter.received(&frame(kind, flags, payload), now);
        assert_eq!(meter.flood(), Some(Flood::ControlFrames), "type {kind}");
    }
    let mut meter = meter(3, 10);
    for _ in 0..100 {
        meter.received(&frame(HEADERS, 4, &[0; 50]), now);
        meter.received(&frame(DATA, 0, &[1]), now);
        meter.received(&frame(DATA, END_STREAM, &[]), now);
    }
    assert_eq!(meter.flood(), None);
}

/// A gRPC client sends a PING with nearly every message to measure the bandwidth.
#[test]
fn what_comes_with_data_is_no_flood() {
    let (now, mut meter) = (Instant::now(), meter(3, 10));
    for _ in 0..1000 {
        meter.sent(&frame(DATA, 0, &[1; 100]), now);
        meter.received(&frame(PING, 0, &[0; 8]), now);
        (0..2).for_each(|_| meter.received(&frame(WINDOW_UPDATE, 0, &[0, 0, 0, 100]), now));
    }
    assert_eq!(meter.flood(), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_client_owes() {
    let mut meter = meter(3, 100);
    let begun = Instant::now();
    assert_eq!(meter.owes(), None);
    meter.sent(&frame(SETTINGS, 0, &[]), begun);
    meter.sent(&frame(SETTINGS, ACK, &[]), begun);
    assert_eq!(meter.owes(), Some((begun, true)));
    tokio::time::advance(Duration::from_secs(1)).await;
    meter.sent(&frame(PING, 0, &[0; 8]), Instant::now());
    assert_eq!(meter.owes(), Some((begun, true)));
    meter.received(&frame(SETTINGS, ACK, &[]), Instant::now());
    assert_eq!(meter.owes(), Some((Instant::now(), false)));
    meter.received(&frame(PING, ACK, &[0; 8]), Instant::now());
    assert_eq!(meter.owes(), None);
}

/// Our own GOAWAY went between two frames, also where the next one must be CONTINUATION.
#[test]
fn nothing_goes_between_the_frames_of_a_head() {
    let (now, mut meter) = (Instant::now(), meter(3, 10));
    let (head, rest) = (frame(HEADERS, END_STREAM, &[0; 50]), frame(CONTINUATION, END_HEADERS, &[0; 20]));
    assert_eq!(meter.unsent(), 0);
    for part in [&head[..5], &head[5..30], &head[30..], &rest[..12]] {
        meter.sent(part, now);
        assert!(meter.unsent() > 0);
    }
    meter.sent(&rest[12..], now);
    assert_eq!(meter.unsent(), 0);
}
