"""A gRPC client (grpcio) of a proxy that answers by itself: every kind of call must end with `--code`, with `--words` and
the id of the request in its message, and with that id in its metadata."""

import os

import grpc

import peer

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]


def call(channel, kind, options):
    # The server wants to know each call from the others.
    metadata = (("x-call", f"{os.getpid()}-{kind}"),)
    metadata += tuple((f"x-{number}", "more") for number in range(options.metadata))
    method = getattr(channel, kind)(f"/exuvia.Peer/{options.method}")
    request = iter([b"one"]) if kind.startswith("stream") else b"one"
    try:
        answer = method(request, timeout=peer.PATIENCE, metadata=metadata)
        for _ in answer if kind.endswith("stream") else [answer]:
            pass
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"{kind}: no error came")


def check(error, kind, options):
    metadata = dict(error.initial_metadata() or ()) | dict(error.trailing_metadata() or ())
    request = metadata.get("x-request-id", "")
    expected = (options.code, f"{options.words} (request {request})")
    assert (error.code().name, error.details()) == expected, f"{kind}: {error.code()}: {error.details()}, not {expected}"
    assert len(request) == 32, f"{kind}: the request's id is {request!r}"


def main():
    parser = peer.arguments(__doc__)
    parser.add_argument("--code", required=True)
    parser.add_argument("--words", required=True)
    parser.add_argument("--method", default="Unary")
    parser.add_argument("--metadata", type=int, default=0, help="how many fields more")
    options = parser.parse_args()
    report = peer.Report()
    with grpc.insecure_channel(f"{options.host}:{options.port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for kind in KINDS:
            try:
                check(call(channel, kind, options), kind, options)
                report.count()
            except AssertionError as error:
                report.fail(str(error))
    report.end()


if __name__ == "__main__":
    main()
