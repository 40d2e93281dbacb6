"""A gRPC server (grpcio) of bare bytes, without generated code: each method has its own kind of stream and of end.

Each call has a number in `x-call`; a number that comes twice ends with INTERNAL, since nothing may be sent again that
may have been processed. The blob in `x-blob-bin` comes back in the first metadata and in the trailing one."""

import asyncio
import hashlib
import json

import grpc

import peer

SEEN, CANCELLED = set(), 0


async def begin(context):
    """What every call does first; the blob that came."""
    fields = dict(context.invocation_metadata())
    call = fields.get("x-call")
    if call in SEEN:
        await context.abort(grpc.StatusCode.INTERNAL, f"call {call} came twice")
    SEEN.add(call)
    blob = fields.get("x-blob-bin")
    if blob is not None:
        await context.send_initial_metadata((("x-blob-bin", blob),))
        context.set_trailing_metadata((("x-trail-bin", blob[::-1]),))
    return blob


async def unary(request, context):
    await begin(context)
    return request[::-1]


async def client_stream(requests, context):
    await begin(context)
    count, digest = 0, hashlib.sha256()
    async for message in requests:
        count += 1
        digest.update(message)
    return f"{count} {digest.hexdigest()}".encode()


async def server_stream(request, context):
    await begin(context)
    order = json.loads(request)
    for i in range(order["count"]):
        await asyncio.sleep(order.get("every", 0))
        yield peer.noise(order["size"], i)
    context.set_trailing_metadata((("x-count", str(order["count"])),))


async def bidi(requests, context):
    await begin(context)
    count = 0
    async for message in requests:
        count += 1
        yield message[::-1]
    context.set_trailing_metadata((("x-count", str(count)),))


async def fail(request, context):
    """Without a message: a trailers-only answer."""
    order = json.loads(request)
    status = next(code for code in grpc.StatusCode if code.value[0] == order["code"])
    await begin(context)
    await context.abort(status, order["details"])


async def fail_late(request, context):
    await begin(context)
    for i in range(3):
        yield b"%d" % i
    await context.abort(grpc.StatusCode.DATA_LOSS, "after three")


async def fail_early(requests, context):
    """While the client still sends."""
    await begin(context)
    async for _ in requests:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no more of this")


async def deadline(_, context):
    """How long the client leaves us, in seconds."""
    await begin(context)
    return str(context.time_remaining()).encode()


async def hang(_, context):
    global CANCELLED
    await begin(context)
    try:
        await asyncio.sleep(10 * peer.PATIENCE)
    except asyncio.CancelledError:
        CANCELLED += 1
        raise


async def cancelled(_, context):
    """How many calls to `Hang` were told that they are cancelled."""
    await begin(context)
    return str(CANCELLED).encode()


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "FailEarly": grpc.stream_stream_rpc_method_handler(fail_early),
    "Deadline": grpc.unary_unary_rpc_method_handler(deadline),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
    "Cancelled": grpc.unary_unary_rpc_method_handler(cancelled),
}


async def main():
    server = grpc.aio.server(
        options=[("grpc.max_metadata_size", 64 << 10), ("grpc.absolute_max_metadata_size", 64 << 10)]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("exuvia.Peer", METHODS),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    peer.listening(port)
    await peer.stdin_ends()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
