// ClawAI plugins in C++17: a thin layer over clawai.h (docs/plugin-c.md is the guide).
//
//     #include <clawai.hpp>
//
//     static std::string greet(claw::Task &, std::string_view name) {
//         return "Hello, " + std::string(name) + "!";
//     }
//
//     CLAW_OPERATIONS {
//         return {claw::operation("hello.greet", "Greet", greet, {{"name", "who", "world"}})};
//     }
//
// The types of a function's parameters are those of the operation, in the order of their names:
// integers, double, float, bool, std::string_view, std::string, claw::Bytes, claw::View<T> (an array
// with elements of one type) and claw::Tensor (of any); in std::optional what may be left out. What
// it returns is the result; void: what it has put. No exception crosses into the host: claw::Error
// is the error of the task, claw::Stopped its end as asked, any other becomes worker_failed.
#ifndef CLAWAI_HPP
#define CLAWAI_HPP

#include <clawai.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace claw {

// The task fails with this code (WIRE.md, section Errors) and message.
class Error : public std::runtime_error {
  public:
    Error(std::string code, const std::string &message)
        : std::runtime_error(message), code_(std::move(code)) {}
    const std::string &code() const noexcept { return code_; }

  private:
    std::string code_;
};

// Thrown by checkpoint() and chunk(), when the task is to stop or to begin anew later. Let it pass.
class Stopped : public std::exception {
  public:
    explicit Stopped(claw_signal asked) noexcept : asked_(asked) {}
    claw_status status() const noexcept { return claw_end(asked_); }
    const char *what() const noexcept override { return "the task is to stop"; }

  private:
    claw_signal asked_;
};

// The elements of an array one behind the other, as std::span has them in C++20.
template <typename T> class Span {
  public:
    Span() noexcept = default;
    Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    T *begin() const noexcept { return data_; }
    T *end() const noexcept { return data_ + size_; }
    T &operator[](std::size_t at) const noexcept { return data_[at]; }
    T &at(std::size_t place) const {
        if (place >= size_)
            throw std::out_of_range("an element beyond the end of a span");
        return data_[place];
    }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

using Bytes = Span<const std::uint8_t>;
using Shape = std::vector<std::int64_t>;

template <typename T> constexpr std::uint32_t dtype_of() {
    using U = std::remove_cv_t<T>;
    static_assert(std::is_arithmetic_v<U>, "an element is a number or a bool");
    if constexpr (std::is_same_v<U, bool>)
        return CLAW_BOOL;
    else if constexpr (std::is_floating_point_v<U>)
        return 0x300u | static_cast<std::uint32_t>(sizeof(U));
    else
        return (std::is_signed_v<U> ? 0x100u : 0x200u) | static_cast<std::uint32_t>(sizeof(U));
}

// An array of the request, of any type. It lives until the operation returns.
class Tensor {
  public:
    explicit Tensor(const claw_tensor *raw = nullptr) noexcept : raw_(raw) {}
    explicit operator bool() const noexcept { return raw_ != nullptr; }
    const claw_tensor *raw() const noexcept { return raw_; }
    std::uint32_t dtype() const noexcept { return raw_->dtype; }
    Span<const std::int64_t> shape() const noexcept { return {raw_->shape, raw_->ndim}; }
    Bytes bytes() const noexcept {
        return {static_cast<const std::uint8_t *>(raw_->data), raw_->bytes};
    }
    // Its elements. Throws Error bad_params if they are of another type; with a T that is not const
    // also if the caller lent it for reading only.
    template <typename T> Span<T> as() const {
        if (raw_->dtype != dtype_of<T>())
            throw Error("bad_params", "an array has elements of another type than expected");
        if constexpr (std::is_const_v<T>) {
            return {static_cast<T *>(raw_->data), raw_->bytes / sizeof(T)};
        } else {
            if (!raw_->writable)
                throw Error("bad_params", "an array is to be written and was lent for reading");
            return {static_cast<T *>(raw_->writable), raw_->bytes / sizeof(T)};
        }
    }

  private:
    const claw_tensor *raw_;
};

// An array of the request with elements of type T, checked: View<const float>.
template <typename T> class View : public Span<T> {
  public:
    explicit View(const Tensor &tensor) : Span<T>(tensor.as<T>()), tensor_(tensor) {}
    const Tensor &tensor() const noexcept { return tensor_; }
    Span<const std::int64_t> shape() const noexcept { return tensor_.shape(); }

  private:
    Tensor tensor_;
};

// One task: a handle that lives until the operation returns.
class Task {
  public:
    explicit Task(claw_task *raw) noexcept : raw_(raw) {}
    claw_task *raw() const noexcept { return raw_; }

    // Obey the kernel: waits while it says so, throws Stopped.
    void checkpoint() { obey(claw_checkpoint(raw_)); }
    // Send what was put so far as a chunk of a stream, or this value alone; then a checkpoint.
    void chunk() { obey(claw_chunk(raw_)); }
    template <typename T> void chunk(const T &value) {
        put(nullptr, value);
        chunk();
    }
    void progress(double fraction, const std::string &note = "") {
        claw_progress(raw_, fraction, note.c_str());
    }
    void log(std::int32_t level, const std::string &text) { claw_log(raw_, level, text.c_str()); }
    unsigned threads() const { return claw_threads(raw_); }
    // Milliseconds until the deadline, if there is one.
    std::optional<std::int64_t> remaining_ms() const {
        std::int64_t left = claw_remaining_ms(raw_);
        return left == INT64_MAX ? std::nullopt : std::optional<std::int64_t>(left);
    }

    std::int64_t config(const char *name, std::int64_t otherwise) const {
        return claw_config_i64(raw_, name, otherwise);
    }
    double config(const char *name, double otherwise) const {
        return claw_config_f64(raw_, name, otherwise);
    }
    bool config(const char *name, bool otherwise) const {
        return claw_config_bool(raw_, name, otherwise) != 0;
    }
    std::string config(const char *name, const char *otherwise) const {
        return claw_config_str(raw_, name, otherwise);
    }

    // Put a value into the result: in a map with a key, in a list or alone with nullptr.
    template <typename T> void put(const char *key, const T &value) {
        if constexpr (std::is_same_v<T, bool>) {
            claw_put_bool(raw_, key, value);
        } else if constexpr (std::is_same_v<T, std::nullptr_t>) {
            claw_put_nil(raw_, key);
        } else if constexpr (std::is_integral_v<T>) {
            put_integer(key, value);
        } else if constexpr (std::is_floating_point_v<T>) {
            claw_put_f64(raw_, key, static_cast<double>(value));
        } else if constexpr (std::is_convertible_v<const T &, std::string_view>) {
            std::string_view text = value;
            claw_put_text(raw_, key, text.data() ? text.data() : "", text.size());
        } else if constexpr (std::is_same_v<T, Bytes>) {
            claw_put_bytes(raw_, key, value.data(), value.size());
        } else {
            put_many(key, value);
        }
    }
    template <typename Fill> void map(const char *key, Fill &&fill) {
        claw_open_map(raw_, key);
        fill();
        claw_close(raw_);
    }
    template <typename Fill> void list(const char *key, Fill &&fill) {
        claw_open_list(raw_, key);
        fill();
        claw_close(raw_);
    }
    // An array of the result, zeroed, to be filled before the operation returns; in the memory of
    // `into`, as it is, if that was lent for writing and has room.
    template <typename T>
    Span<T> tensor(const char *key, const Shape &shape, const Tensor &into = Tensor()) {
        void *data =
            claw_put_tensor(raw_, key, into.raw(), dtype_of<T>(),
                            static_cast<std::uint32_t>(shape.size()), shape.data());
        if (!data)
            throw Error("worker_failed", "an array of the result cannot be had");
        std::size_t count = 1;
        for (std::int64_t size : shape)
            count *= static_cast<std::size_t>(size);
        return {static_cast<T *>(data), count};
    }

  private:
    template <typename T> void put_integer(const char *key, T value) {
        if constexpr (std::is_unsigned_v<T> && sizeof(T) == 8) {
            if (value > static_cast<T>(INT64_MAX))
                throw Error("worker_failed", "an integer of the result has more than 63 bits");
        }
        claw_put_i64(raw_, key, static_cast<std::int64_t>(value));
    }
    template <typename T, typename = typename T::mapped_type>
    void put_many(const char *key, const T &values) {
        map(key, [&] {
            for (const auto &[name, value] : values)
                put(std::string(name).c_str(), value);
        });
    }
    template <typename T, typename... None> void put_many(const char *key, const T &values, None...) {
        list(key, [&] {
            for (const auto &value : values)
                put(nullptr, value);
        });
    }
    static void obey(claw_signal asked) {
        if (asked != CLAW_GO)
            throw Stopped(asked);
    }

    claw_task *raw_;
};

// The name of a parameter, what it is, and its default if it has one.
struct Param {
    using Value = std::variant<std::monostate, bool, std::int64_t, double, std::string>;
    Param(std::string name_, std::string description_)
        : name(std::move(name_)), description(std::move(description_)) {}
    template <typename T>
    Param(std::string name_, std::string description_, T value)
        : name(std::move(name_)), description(std::move(description_)) {
        if constexpr (std::is_same_v<T, bool>)
            otherwise = value;
        else if constexpr (std::is_integral_v<T>)
            otherwise = static_cast<std::int64_t>(value);
        else if constexpr (std::is_floating_point_v<T>)
            otherwise = static_cast<double>(value);
        else
            otherwise = std::string(value);
    }
    // With a range as well.
    template <typename T>
    Param(std::string name_, std::string description_, T value, double low_, double high_)
        : Param(std::move(name_), std::move(description_), value) {
        low = low_, high = high_, ranged = true;
    }
    std::string name, description;
    Value otherwise;
    double low = 0, high = 0;
    bool ranged = false;
};

namespace detail {

template <typename T> struct Optional : std::false_type {
    using type = T;
};
template <typename T> struct Optional<std::optional<T>> : std::true_type {
    using type = T;
};
template <typename T> struct IsView : std::false_type {};
template <typename T> struct IsView<View<T>> : std::true_type {};

template <typename T> constexpr std::uint32_t type_of() {
    if constexpr (std::is_same_v<T, bool>)
        return CLAW_TYPE_BOOL;
    else if constexpr (std::is_integral_v<T>)
        return CLAW_TYPE_I64;
    else if constexpr (std::is_floating_point_v<T>)
        return CLAW_TYPE_F64;
    else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>)
        return CLAW_TYPE_STR;
    else if constexpr (std::is_same_v<T, Bytes>)
        return CLAW_TYPE_BYTES;
    else if constexpr (std::is_same_v<T, Tensor> || IsView<T>::value)
        return CLAW_TYPE_TENSOR;
    else
        static_assert(!sizeof(T), "no parameter can be of this type");
}

template <typename T> T read(claw_task *task, const char *name) {
    if constexpr (Optional<T>::value) {
        using Inner = typename Optional<T>::type;
        static_assert(type_of<Inner>() == CLAW_TYPE_TENSOR, "only arrays can be left out");
        if (!claw_param_tensor(task, name))
            return std::nullopt;
        return read<Inner>(task, name);
    } else if constexpr (std::is_same_v<T, bool>) {
        return claw_param_bool(task, name, 0) != 0;
    } else if constexpr (std::is_integral_v<T>) {
        std::int64_t wide = claw_param_i64(task, name, 0);
        T narrow = static_cast<T>(wide);
        if (static_cast<std::int64_t>(narrow) != wide || (narrow < T(0)) != (wide < 0))
            throw Error("bad_params", std::string(name) + " does not fit its type");
        return narrow;
    } else if constexpr (std::is_floating_point_v<T>) {
        return static_cast<T>(claw_param_f64(task, name, 0));
    } else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::string_view>) {
        std::uint64_t size = 0;
        const char *text = claw_param_text(task, name, &size);
        return T(text, static_cast<std::size_t>(size));
    } else if constexpr (std::is_same_v<T, Bytes>) {
        std::uint64_t size = 0;
        const std::uint8_t *data = claw_param_bytes(task, name, &size);
        return T(data, static_cast<std::size_t>(size));
    } else {
        return T(Tensor(claw_param_tensor(task, name)));
    }
}

template <typename... Types> struct Names {
    static void describe(std::vector<claw_param> &table, const std::vector<Param> &params) {
        std::size_t at = 0;
        (table.push_back(row<std::decay_t<Types>>(params[at++])), ...);
    }
    template <typename T> static claw_param row(const Param &param) {
        using Inner = typename Optional<T>::type;
        claw_param made{};
        made.struct_size = sizeof made;
        made.version = CLAW_VERSION;
        made.type = type_of<Inner>();
        made.has = Optional<T>::value ? static_cast<std::uint32_t>(CLAW_IS_OPTIONAL) : 0u;
        made.name = param.name.c_str();
        made.description = param.description.c_str();
        if (!std::holds_alternative<std::monostate>(param.otherwise)) {
            made.has |= CLAW_HAS_DEFAULT;
            if (!set(made, param.otherwise))
                throw std::invalid_argument("the default of " + param.name + " is of another type");
        }
        if (param.ranged) {
            made.has |= CLAW_HAS_RANGE;
            made.minimum = param.low, made.maximum = param.high;
        }
        return made;
    }
    static bool set(claw_param &made, const Param::Value &value) {
        if (const auto *flag = std::get_if<bool>(&value))
            return made.i64 = *flag, made.type == CLAW_TYPE_BOOL;
        if (const auto *number = std::get_if<std::int64_t>(&value))
            return made.i64 = *number, made.f64 = static_cast<double>(*number),
                   made.type == CLAW_TYPE_I64 || made.type == CLAW_TYPE_F64;
        if (const auto *number = std::get_if<double>(&value))
            return made.f64 = *number, made.type == CLAW_TYPE_F64;
        return made.text = std::get<std::string>(value).c_str(), made.type == CLAW_TYPE_STR;
    }
    template <typename Function, std::size_t... At>
    static auto call(Function &function, Task &task, const std::vector<Param> &params,
                     std::index_sequence<At...>) {
        (void)params;
        return function(task, read<std::decay_t<Types>>(task.raw(), params[At].name.c_str())...);
    }
};

template <typename T> struct Signature : Signature<decltype(&T::operator())> {};
template <typename Result, typename... Types> struct Signature<Result (*)(Task &, Types...)> {
    using Parameters = Names<Types...>;
    static constexpr std::size_t count = sizeof...(Types);
    using result = Result;
};
template <typename Class, typename Result, typename... Types>
struct Signature<Result (Class::*)(Task &, Types...) const> : Signature<Result (*)(Task &, Types...)> {
};
template <typename Class, typename Result, typename... Types>
struct Signature<Result (Class::*)(Task &, Types...)> : Signature<Result (*)(Task &, Types...)> {};

// The boundary: an exception of the plugin's becomes the error of the task.
template <typename Body> claw_status guarded(claw_task *task, Body &&body) noexcept {
    try {
        body();
        return CLAW_OK;
    } catch (const Stopped &stopped) {
        return stopped.status();
    } catch (const Error &error) {
        return claw_fail(task, error.code().c_str(), error.what());
    } catch (const std::bad_alloc &) {
        return claw_fail(task, "no_memory", "the plugin has no memory left");
    } catch (const std::exception &error) {
        return claw_fail(task, "worker_failed", error.what());
    } catch (...) {
        return claw_fail(task, "worker_failed", "the plugin threw something unknown");
    }
}

} // namespace detail

// An operation: see operation() below.
struct Operation {
    std::string name, description;
    std::vector<Param> params;
    std::function<void(Task &)> run;
    std::function<void(std::vector<claw_param> &, const std::vector<Param> &)> describe;
};

// A function or lambda as an operation; `params` names what it takes after the task, in order.
template <typename Function>
Operation operation(std::string name, std::string description, Function function,
                    std::vector<Param> params = {}) {
    using Of = detail::Signature<std::decay_t<Function>>;
    if (params.size() != Of::count)
        throw std::invalid_argument(name + ": " + std::to_string(params.size()) + " names for " +
                                    std::to_string(Of::count) + " parameters");
    auto run = [function, params](Task &task) mutable {
        auto places = std::make_index_sequence<Of::count>();
        if constexpr (std::is_void_v<typename Of::result>)
            Of::Parameters::call(function, task, params, places);
        else
            task.put(nullptr, Of::Parameters::call(function, task, params, places));
    };
    return {std::move(name), std::move(description), std::move(params), run,
            Of::Parameters::describe};
}

namespace detail {

// All operations of a plugin, as the tables of clawai.h. The factory is its first member's address.
struct Plugin {
    claw_factory factory{};
    std::vector<Operation> operations;
    std::vector<std::vector<claw_param>> params;
    std::vector<claw_operation> table;

    explicit Plugin(std::vector<Operation> made) : operations(std::move(made)) {
        factory = {sizeof factory, CLAW_VERSION, count, describe, create, destroy};
        for (const Operation &each : operations) {
            params.emplace_back();
            each.describe(params.back(), each.params);
            claw_operation row{};
            row.struct_size = sizeof row;
            row.version = CLAW_VERSION;
            row.name = each.name.c_str();
            row.description = each.description.c_str();
            row.params = params.back().data();
            row.param_count = static_cast<std::uint32_t>(params.back().size());
            row.run = run;
            table.push_back(row);
        }
    }
    Plugin(const Plugin &) = delete;
    Plugin &operator=(const Plugin &) = delete;

    static const Plugin &of(const claw_factory *self) {
        return *reinterpret_cast<const Plugin *>(self);
    }
    static std::uint32_t count(const claw_factory *self) {
        return static_cast<std::uint32_t>(of(self).table.size());
    }
    static const claw_operation *describe(const claw_factory *self, std::uint32_t index) {
        return index < of(self).table.size() ? &of(self).table[index] : nullptr;
    }
    // The state of an operation is the operation itself.
    static claw_status create(const claw_factory *self, const char *name, claw_task *task,
                              void **state) {
        for (const Operation &each : of(self).operations) {
            if (each.name == name) {
                *state = const_cast<Operation *>(&each);
                return CLAW_OK;
            }
        }
        return claw_fail(task, "unknown_operation", name);
    }
    static void destroy(const claw_factory *, const char *, void *) {}
    static claw_status run(claw_task *task, void *state) {
        return guarded(task, [&] {
            Task wrapped(task);
            static_cast<Operation *>(state)->run(wrapped);
        });
    }
};

// NULL, with the reason on standard error, if the operations cannot be made. `plugin` is the
// caller's: a static in here would be one for all shared objects of a process.
template <typename Make>
const void *factory(const char *id, std::unique_ptr<Plugin> &plugin, Make make) noexcept {
    if (std::strcmp(id, CLAW_FACTORY) != 0)
        return nullptr;
    try {
        if (!plugin)
            plugin = std::make_unique<Plugin>(make());
        return &plugin->factory;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "the operations cannot be made: %s\n", error.what());
    } catch (...) {
        std::fprintf(stderr, "the operations cannot be made\n");
    }
    return nullptr;
}

} // namespace detail
} // namespace claw

// The operations of a plugin, once in one file: CLAW_OPERATIONS { return {claw::operation(...)}; }
#define CLAW_OPERATIONS                                                                            \
    static std::vector<claw::Operation> claw_make_();                                              \
    static const void *claw_get_factory_(const char *id) {                                         \
        static std::unique_ptr<claw::detail::Plugin> plugin;                                       \
        return claw::detail::factory(id, plugin, claw_make_);                                      \
    }                                                                                              \
    extern "C" {                                                                                   \
    CLAW_EXPORT extern const claw_entry_point claw_entry;                                          \
    const claw_entry_point claw_entry = {sizeof(claw_entry_point), CLAW_VERSION,                   \
                                         claw_get_factory_};                                       \
    }                                                                                              \
    static std::vector<claw::Operation> claw_make_()

#endif
