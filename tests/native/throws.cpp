// Throws: through clawai.hpp, which makes errors of it, and past it through C.
#include <clawai.hpp>

static std::string raise(claw::Task &task, std::string_view how) {
    if (how == "error")
        throw claw::Error("too_large", "so it is");
    if (how == "standard")
        throw std::range_error("out of range");
    if (how == "memory")
        throw std::bad_alloc();
    if (how == "int")
        throw 7;
    if (how == "stop")
        for (;;)
            task.checkpoint();
    return std::string(how);
}

static claw_status through(claw_task *, void *) {
    throw std::runtime_error("thrown through C");
}

struct Out {
    double mean;
};

// Typed parameters of all kinds; the lambda keeps something of its own.
static auto typed(int offset) {
    return [offset](claw::Task &task, int number, float scale, bool flag, std::string text,
                    claw::Bytes bytes, claw::View<const float> view,
                    std::optional<claw::View<double>> into) {
        std::vector<double> sums(static_cast<std::size_t>(view.shape()[0]), 0.0);
        std::size_t row = view.size() / sums.size(), at = 0;
        for (float value : view)
            sums[at++ / row] += static_cast<double>(value * scale);
        task.put("number", number + offset);
        task.put("flag", flag);
        task.put("text", text);
        task.put("bytes", bytes);
        task.put("sums", sums);
        task.put("nothing", nullptr);
        task.put("nested", std::map<std::string, std::vector<int>>{{"a", {1, 2}}});
        task.map("map", [&] { task.list("list", [&] { task.put(nullptr, 1.5); }); });
        auto out = task.tensor<double>("out", {view.shape()[0]},
                                       into ? into->tensor() : claw::Tensor());
        std::copy(sums.begin(), sums.end(), out.begin());
        if (task.config("loud", false))
            task.log(CLAW_INFO, "loud");
        task.progress(1.0, "done");
    };
}

static std::vector<claw::Operation> made() {
    return {claw::operation("throws.raise", "Throw", raise, {{"how", "what", "none"}}),
            claw::operation("throws.typed", "All types", typed(1),
                            {{"number", "an integer", 2, -10, 10},
                             {"scale", "a factor", 1},
                             {"flag", "a bool", false},
                             {"text", "a text", "t"},
                             {"bytes", "bytes"},
                             {"view", "an array of f4"},
                             {"into", "an array of f8 that is lent"}})};
}

// The factory of the header, with one operation more that it does not guard.
static claw_operation unguarded = {sizeof(claw_operation), CLAW_VERSION, "throws.through",
                                   "Throw through C", nullptr, 0, 0, through, nullptr, nullptr};
static claw_factory factory;
static const claw_factory *inner;

static const void *get(const char *id) {
    static std::unique_ptr<claw::detail::Plugin> plugin;
    inner = static_cast<const claw_factory *>(claw::detail::factory(id, plugin, made));
    factory = *inner;
    factory.count = [](const claw_factory *) { return inner->count(inner) + 1; };
    factory.describe = [](const claw_factory *, std::uint32_t at) {
        return at < inner->count(inner) ? inner->describe(inner, at) : &unguarded;
    };
    factory.create = [](const claw_factory *, const char *name, claw_task *task, void **state) {
        return std::strcmp(name, "throws.through") ? inner->create(inner, name, task, state)
                                                   : static_cast<claw_status>(CLAW_OK);
    };
    return &factory;
}

extern "C" {
CLAW_EXPORT extern const claw_entry_point claw_entry;
const claw_entry_point claw_entry = {sizeof(claw_entry_point), CLAW_VERSION, get};
}
