/* A client of the kernel in C: libzmq carries the frames, msgpack-c the headers. See sdk/WIRE.md.
 *
 *     make && ./client echo.say '{"text": "hello"}'       ask for one operation
 *     python -m clawai.sdk.conformance ./client           take orders from the conformance runner
 *
 * Orders and events are lines of JSON (docs/clients.md), which jansson reads and writes. One thread;
 * everything that is asked stays open until its end is heard or the connection is gone.
 */
#include <inttypes.h>
#include <jansson.h>
#include <msgpack.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#define MAX_FRAMES 64
#define SAFE_INTEGER 9007199254740991LL /* beyond it, JSON says {"int": "digits"} */

typedef struct {
    void *context, *socket, *monitor;
    unsigned connections;           /* so far: names the monitor */
    size_t max_message, max_frames; /* from welcome */
    json_t *open;                   /* requests without an end: their ids as keys */
    void (*heard)(json_t *event);   /* is given each event */
} Client;

static void fatal(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(2);
}

/* Values: msgpack to JSON and back. */

static json_t *from_integer(bool negative, uint64_t bits) {
    char digits[32];
    if (negative ? (int64_t)bits >= -SAFE_INTEGER : bits <= (uint64_t)SAFE_INTEGER)
        return json_integer((json_int_t)bits);
    if (negative)
        snprintf(digits, sizeof digits, "%" PRId64, (int64_t)bits);
    else
        snprintf(digits, sizeof digits, "%" PRIu64, bits);
    return json_pack("{s:s}", "int", digits);
}

static json_t *from_bytes(const void *data, size_t size) {
    char *hex = malloc(2 * size + 1);
    if (!hex) fatal("no memory");
    hex[0] = 0;
    for (size_t i = 0; i < size; i++) {
        hex[2 * i] = "0123456789abcdef"[((const uint8_t *)data)[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[((const uint8_t *)data)[i] & 15];
    }
    json_t *made = json_object();
    json_object_set_new(made, "hex", json_stringn(hex, 2 * size));
    free(hex);
    return made;
}

static json_t *from_msgpack(const msgpack_object *object) {
    json_t *made;
    switch (object->type) {
    case MSGPACK_OBJECT_BOOLEAN: return json_boolean(object->via.boolean);
    case MSGPACK_OBJECT_POSITIVE_INTEGER: return from_integer(false, object->via.u64);
    case MSGPACK_OBJECT_NEGATIVE_INTEGER: return from_integer(true, (uint64_t)object->via.i64);
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64: return json_real(object->via.f64);
    case MSGPACK_OBJECT_STR: return json_stringn(object->via.str.ptr, object->via.str.size);
    case MSGPACK_OBJECT_BIN: return from_bytes(object->via.bin.ptr, object->via.bin.size);
    case MSGPACK_OBJECT_ARRAY:
        made = json_array();
        for (uint32_t i = 0; i < object->via.array.size; i++)
            json_array_append_new(made, from_msgpack(&object->via.array.ptr[i]));
        return made;
    case MSGPACK_OBJECT_MAP:
        made = json_object();
        for (uint32_t i = 0; i < object->via.map.size; i++) {
            const msgpack_object_kv *pair = &object->via.map.ptr[i];
            if (pair->key.type == MSGPACK_OBJECT_STR)
                json_object_setn_new(made, pair->key.via.str.ptr, pair->key.via.str.size,
                                     from_msgpack(&pair->val));
        }
        return made;
    default: return json_null(); /* nil, and extensions, which the wire does not use */
    }
}

/* The bytes that {"hex": ...} stands for, to be freed; NULL if the value is something else. */
static uint8_t *to_bytes(const json_t *value, size_t *size) {
    const json_t *hex = json_object_size(value) == 1 ? json_object_get(value, "hex") : NULL;
    if (!json_is_string(hex)) return NULL;
    *size = json_string_length(hex) / 2;
    uint8_t *data = malloc(*size + 1);
    if (!data) fatal("no memory");
    for (size_t i = 0; i < 2 * *size; i++) {
        char digit = json_string_value(hex)[i];
        data[i / 2] = (uint8_t)(data[i / 2] << 4 | (digit <= '9' ? digit - '0' : digit - 'a' + 10));
    }
    return data;
}

static void to_msgpack(msgpack_packer *out, const json_t *value) {
    const json_t *digits = json_object_size(value) == 1 ? json_object_get(value, "int") : NULL;
    const char *key;
    json_t *item;
    size_t size, i;
    uint8_t *bytes = to_bytes(value, &size);
    if (bytes) {
        msgpack_pack_bin_with_body(out, bytes, size);
        free(bytes);
    } else if (json_is_string(digits)) {
        const char *text = json_string_value(digits);
        if (text[0] == '-')
            msgpack_pack_int64(out, strtoll(text, NULL, 10));
        else
            msgpack_pack_uint64(out, strtoull(text, NULL, 10));
    } else if (json_is_object(value)) {
        msgpack_pack_map(out, json_object_size(value));
        json_object_foreach((json_t *)value, key, item) {
            msgpack_pack_str_with_body(out, key, strlen(key));
            to_msgpack(out, item);
        }
    } else if (json_is_array(value)) {
        msgpack_pack_array(out, json_array_size(value));
        json_array_foreach((json_t *)value, i, item) to_msgpack(out, item);
    } else if (json_is_string(value)) {
        msgpack_pack_str_with_body(out, json_string_value(value), json_string_length(value));
    } else if (json_is_integer(value)) {
        msgpack_pack_int64(out, json_integer_value(value));
    } else if (json_is_real(value)) {
        msgpack_pack_double(out, json_real_value(value));
    } else if (json_is_boolean(value)) {
        json_is_true(value) ? msgpack_pack_true(out) : msgpack_pack_false(out);
    } else {
        msgpack_pack_nil(out);
    }
}

static json_t *decode(const void *data, size_t size) {
    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    json_t *value = NULL;
    if (msgpack_unpack_next(&unpacked, data, size, NULL) == MSGPACK_UNPACK_SUCCESS)
        value = from_msgpack(&unpacked.data);
    msgpack_unpacked_destroy(&unpacked);
    return value;
}

/* Events. What a message leaves out has the default that WIRE.md gives. */

static const struct {
    const char *type, *fields;
} DEFAULTS[] = {
    {"welcome", "{\"max_message\": 8388608, \"max_frames\": 64}"},
    {"accepted", "{\"position\": 0, \"estimate_ms\": null, \"job\": \"\"}"},
    {"progress", "{\"state\": \"\", \"position\": null, \"estimate_ms\": null, \"fraction\": null,"
                 " \"note\": \"\"}"},
    {"chunk", "{\"data\": null}"},
    {"done", "{\"result\": null, \"timings\": {}}"},
    {"answer", "{\"data\": {}}"},
    {"error", "{\"id\": null, \"got\": null, \"allowed\": null, \"hint\": \"\","
              " \"retry_after_ms\": null, \"timings\": {}}"},
};

static bool is_end(const char *type) {
    return !strcmp(type, "done") || !strcmp(type, "error") || !strcmp(type, "answer");
}

/* A request's id as a key of `open`. Ids may be larger than JSON likes, so as text. */
static char *key_of(const json_t *id) {
    char *text = json_is_null(id) ? NULL : json_dumps(id, JSON_ENCODE_ANY | JSON_COMPACT);
    return text;
}

/* Give an event to the user; it is freed. An end closes its request. */
static void tell(Client *client, const char *type, json_t *event) {
    json_object_set_new(event, "event", json_string(type));
    char *key = is_end(type) ? key_of(json_object_get(event, "id")) : NULL;
    if (key) json_object_del(client->open, key);
    free(key);
    client->heard(event);
    json_decref(event);
}

static void tell_error(Client *client, json_t *id, const char *code, const char *text) {
    json_t *event = json_loads(DEFAULTS[6].fields, 0, NULL);
    json_object_set(event, "id", id);
    json_object_set_new(event, "code", json_string(code));
    json_object_set_new(event, "message", json_string(text));
    tell(client, "error", event);
}

/* The connection. */

static void client_close(Client *client) {
    if (client->socket) {
        zmq_socket_monitor(client->socket, NULL, 0);
        zmq_close(client->monitor);
        zmq_close(client->socket);
    }
    client->socket = client->monitor = NULL;
    json_object_clear(client->open);
}

static void client_connect(Client *client, const char *folder) {
    int zero = 0, never = 1 << 30;
    char address[512], monitor[64];
    client_close(client);
    client->max_message = 8388608;
    client->max_frames = MAX_FRAMES;
    client->socket = zmq_socket(client->context, ZMQ_DEALER);
    zmq_setsockopt(client->socket, ZMQ_LINGER, &zero, sizeof zero);
    /* A new connection would know none of our requests; see section 1 of WIRE.md. */
    zmq_setsockopt(client->socket, ZMQ_RECONNECT_IVL, &never, sizeof never);
    int events = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CONNECT_RETRIED;
    snprintf(monitor, sizeof monitor, "inproc://monitor-%u", ++client->connections);
    zmq_socket_monitor(client->socket, monitor, events);
    client->monitor = zmq_socket(client->context, ZMQ_PAIR);
    zmq_setsockopt(client->monitor, ZMQ_LINGER, &zero, sizeof zero);
    zmq_connect(client->monitor, monitor);
    snprintf(address, sizeof address, "ipc://%s/kernel.sock", folder);
    if (zmq_connect(client->socket, address)) fatal(zmq_strerror(zmq_errno()));
}

/* Send a message. One that asks for something is open until its end. */
static void client_send(Client *client, const json_t *header, const json_t *payload, size_t zeros) {
    size_t count = 1 + json_array_size(payload) + (zeros > 0), size, total, i;
    json_t *id = json_object_get(header, "id"), *item;
    char *key = !strcmp(json_string_value(json_object_get(header, "type")), "cancel") ? NULL
                                                                                     : key_of(id);
    if (id && key) json_object_set_new(client->open, key, json_incref(id));
    free(key);
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    to_msgpack(&packer, header);
    total = buffer.size + zeros;
    json_array_foreach((json_t *)payload, i, item)
        total += json_string_length(json_object_get(item, "hex")) / 2;
    if (total > client->max_message || count > client->max_frames) {
        tell_error(client, id, "too_large", "the message exceeds what the kernel takes");
    } else {
        zmq_send(client->socket, buffer.data, buffer.size, count > 1 ? ZMQ_SNDMORE : 0);
        json_array_foreach((json_t *)payload, i, item) {
            uint8_t *bytes = to_bytes(item, &size);
            if (!bytes) fatal("payload is not hex");
            zmq_send(client->socket, bytes, size, i + 2 < count ? ZMQ_SNDMORE : 0);
            free(bytes);
        }
        if (zeros) {
            void *data = calloc(1, zeros);
            if (!data) fatal("no memory");
            zmq_send(client->socket, data, zeros, 0);
            free(data);
        }
    }
    msgpack_sbuffer_destroy(&buffer);
}

static void client_heard(Client *client, json_t *header, json_t *payload) {
    const char *type = json_string_value(json_object_get(header, "type"));
    for (size_t i = 0; type && i < sizeof DEFAULTS / sizeof *DEFAULTS; i++) {
        if (strcmp(type, DEFAULTS[i].type)) continue;
        json_t *event = json_loads(DEFAULTS[i].fields, 0, NULL);
        json_object_update(event, header);
        if (!strcmp(type, "chunk") || !strcmp(type, "done"))
            json_object_set(event, "payload", payload);
        if (!strcmp(type, "welcome")) {
            client->max_message = json_integer_value(json_object_get(event, "max_message"));
            client->max_frames = json_integer_value(json_object_get(event, "max_frames"));
        }
        tell(client, type, event);
        return;
    } /* a type that we do not know means nothing to us */
}

/* Take one message, if there is one. */
static bool client_receive(Client *client) {
    json_t *header = NULL, *payload = json_array();
    int more = 1;
    for (size_t frame = 0; more; frame++) {
        size_t length = sizeof more;
        zmq_msg_t message;
        zmq_msg_init(&message);
        if (zmq_msg_recv(&message, client->socket, frame ? 0 : ZMQ_DONTWAIT) < 0) {
            json_decref(payload);
            return false;
        }
        if (frame)
            json_array_append_new(payload,
                                  from_bytes(zmq_msg_data(&message), zmq_msg_size(&message)));
        else
            header = decode(zmq_msg_data(&message), zmq_msg_size(&message));
        zmq_msg_close(&message);
        zmq_getsockopt(client->socket, ZMQ_RCVMORE, &more, &length);
    }
    client_heard(client, header, payload);
    json_decref(header);
    json_decref(payload);
    return true;
}

/* The connection has ended, or nobody is there: hear what was said, then end what is open. */
static void client_gone(Client *client) {
    while (client_receive(client)) {
    }
    const char *key;
    json_t *id, *open = json_copy(client->open);
    json_object_foreach(open, key, id)
        tell_error(client, id, "no_kernel", "the connection ended");
    json_decref(open);
    client_close(client);
    json_t *none = json_null();
    tell_error(client, none, "no_kernel", "no kernel is there");
    tell(client, "gone", json_object());
}

/* Wait for the kernel, and for standard input if `orders`; whether the latter has something. */
static bool client_wait(Client *client, bool orders) {
    zmq_pollitem_t items[] = {
        {client->socket, 0, ZMQ_POLLIN, 0},
        {client->monitor, 0, ZMQ_POLLIN, 0},
        {NULL, STDIN_FILENO, ZMQ_POLLIN | ZMQ_POLLERR, 0}, /* the end of a pipe is an error */
    };
    int first = client->socket ? 0 : 2;
    zmq_poll(items + first, (orders ? 3 : 2) - first, -1);
    if (client->socket && items[0].revents)
        while (client_receive(client)) {
        }
    if (client->socket && items[1].revents) client_gone(client);
    return orders && items[2].revents;
}

/* Orders of the conformance runner. */

static void print_event(json_t *event) {
    json_dumpf(event, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
}

static void order_codec(const char *what, const json_t *order) {
    json_t *event = json_object();
    size_t size;
    if (!strcmp(what, "decode")) {
        uint8_t *data = to_bytes(json_object_get(order, "header"), &size);
        if (!data) fatal("decode without a header");
        json_object_set_new(event, "value", decode(data, size));
        free(data);
    } else {
        msgpack_sbuffer buffer;
        msgpack_packer packer;
        msgpack_sbuffer_init(&buffer);
        msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
        to_msgpack(&packer, json_object_get(order, "value"));
        json_object_set_new(event, "header", from_bytes(buffer.data, buffer.size));
        msgpack_sbuffer_destroy(&buffer);
    }
    json_object_set_new(event, "event", json_string(*what == 'd' ? "decoded" : "encoded"));
    print_event(event);
    json_decref(event);
}

static void obey(Client *client, const char *line, size_t length) {
    json_t *order = json_loadb(line, length, JSON_ALLOW_NUL, NULL);
    const char *what = json_string_value(json_object_get(order, "do"));
    if (!what) fatal("that is no order");
    if (!strcmp(what, "close")) {
        client_close(client);
        tell(client, "closed", json_object());
    } else if (!strcmp(what, "decode") || !strcmp(what, "encode")) {
        order_codec(what, order);
    } else { /* what is left of the order is the header of the message */
        json_t *payload = json_incref(json_object_get(order, "payload"));
        size_t zeros = json_integer_value(json_object_get(order, "zeros"));
        json_object_set(order, "type", json_object_get(order, "do"));
        if (!strcmp(what, "hello")) {
            client_connect(client, json_string_value(json_object_get(order, "folder")));
            if (!json_object_get(order, "version"))
                json_object_set_new(order, "version", json_pack("[ii]", 1, 1));
        }
        for (const char *const *name = (const char *[]){"do", "folder", "payload", "zeros", NULL};
             *name; name++)
            json_object_del(order, *name);
        client_send(client, order, payload, zeros);
        json_decref(payload);
    }
    json_decref(order);
}

static void take_orders(Client *client) {
    char *pending = NULL;
    size_t held = 0, room = 0;
    for (;;) {
        if (!client_wait(client, true)) continue;
        if (room - held < 65536 && !(pending = realloc(pending, room = 2 * room + 65536)))
            fatal("no memory");
        ssize_t count = read(STDIN_FILENO, pending + held, room - held);
        if (count <= 0) break;
        held += (size_t)count;
        char *line = pending, *end;
        while ((end = memchr(line, '\n', held - (size_t)(line - pending)))) {
            obey(client, line, (size_t)(end - line));
            line = end + 1;
        }
        held -= (size_t)(line - pending);
        memmove(pending, line, held);
    }
    free(pending);
}

/* One operation, for people. */

static void show(json_t *event) {
    const char *type = json_string_value(json_object_get(event, "event"));
    json_t *value = json_object_get(event, *type == 'c' ? "data" : "result");
    if (!strcmp(type, "error"))
        fprintf(stderr, "%s: %s\n", json_string_value(json_object_get(event, "code")),
                json_string_value(json_object_get(event, "message")));
    else if (value) {
        json_dumpf(value, stdout, JSON_ENCODE_ANY);
        putchar('\n');
    }
    if (is_end(type)) exit(!strcmp(type, "error"));
}

static void ask_once(Client *client, const char *op, const char *params) {
    const char *chosen = getenv("CLAW_RUNTIME_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");
    char folder[400];
    if (chosen)
        snprintf(folder, sizeof folder, "%s", chosen);
    else if (xdg)
        snprintf(folder, sizeof folder, "%s/clawai", xdg);
    else
        snprintf(folder, sizeof folder, "/tmp/clawai-%u", (unsigned)getuid());
    json_t *given = json_loads(params, 0, NULL);
    if (!given) fatal("the parameters are not a JSON object");
    client_connect(client, folder);
    client_send(client, json_pack("{s:s, s:[ii]}", "type", "hello", "version", 1, 1), NULL, 0);
    json_t *submit = json_pack("{s:s, s:i, s:s, s:o}", "type", "submit", "id", 1, "op", op,
                               "params", given);
    client_send(client, submit, NULL, 0);
    for (;;) client_wait(client, false);
}

int main(int argc, char **argv) {
    Client client = {.context = zmq_ctx_new(), .open = json_object(), .heard = print_event};
    if (argc > 1) {
        client.heard = show;
        ask_once(&client, argv[1], argc > 2 ? argv[2] : "{}");
    }
    take_orders(&client);
    client_close(&client);
    json_decref(client.open);
    zmq_ctx_term(client.context);
    return 0;
}
