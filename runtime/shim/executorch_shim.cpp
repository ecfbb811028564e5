// The ExecuTorch engine's C interface: what `runtime/src/executorch.rs` calls, in terms of ExecuTorch's `Module`.
//
// Conventions: a function that can fail returns null or a nonzero status, and `diffulex_executorch_error` has the text;
// no exception leaves this file. Inputs are used in place, outputs are copied into the caller's buffers.
// Change a signature or a struct: raise ABI here and in executorch.rs.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>

// The package has the thread pool's library but not its header; these are the three names used of it.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {
using namespace executorch::runtime;
using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::extension::threadpool::get_threadpool;
using Sizes = std::vector<int32_t>;

constexpr uint32_t ABI = 1;
enum Status : int32_t { OK = 0, FAILED = 1, ABSENT = 2 };

thread_local std::string failure;  // text of the last failed call on this thread
thread_local std::string said;     // what the runtime logged during the current call
thread_local std::string answer;   // text of the last constant method
std::atomic<int> open_models{0};

// The runtime explains itself only in its log, so the log becomes part of the error. A fatal line precedes an abort.
void listen(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* text, size_t length) {
  if (level == kFatal) fprintf(stderr, "executorch: %.*s\n", int(length), text);
  if (level == kError && said.size() < 1000) said.append(said.empty() ? "" : "; ").append(text, length);
}

void check(Error error, const std::string& where) {
  if (error == Error::Ok) return;
  char code[16];
  snprintf(code, sizeof code, " (0x%02x)", unsigned(error));
  throw std::runtime_error(where + ": " + to_string(error) + code + (said.empty() ? "" : ": " + said));
}

template <class T>
T checked(Result<T> result, const std::string& where) {
  check(result.error(), where);
  return std::move(result.get());
}

template <class Body>
int32_t guarded(Body body) noexcept {
  static const bool listening = register_pal(PalImpl::create(listen, __FILE__));
  (void)listening;
  said.clear();
  try {
    return body();
  } catch (const std::exception& e) {
    failure = e.what();
  } catch (...) {
    failure = "unknown C++ exception";
  }
  return FAILED;
}

std::string text(const Sizes& sizes) {
  std::string out;
  for (int32_t n : sizes) out += (out.empty() ? "[" : ", ") + std::to_string(n);
  return out + "]";
}

void expect(const std::string& what, const Sizes& found, const Sizes& wanted) {
  if (found != wanted) throw std::runtime_error(what + " is " + text(found) + ", not " + text(wanted));
}

Sizes bounds(Result<TensorInfo> result, const std::string& what, ScalarType type, size_t rank) {
  TensorInfo info = checked(std::move(result), what);
  Sizes sizes(info.sizes().begin(), info.sizes().end());
  if (info.scalar_type() != type || sizes.size() != rank)
    throw std::runtime_error("method forward is not a step graph: " + what + " has scalar type " +
                             std::to_string(int(info.scalar_type())) + " and shape " + text(sizes));
  return sizes;
}
}  // namespace

extern "C" {
struct DiffulexShape {
  uint64_t max_tokens, max_cache, layers, kv_heads, head_dim, vocab;
};

struct DiffulexStep {
  uint64_t tokens_len;          // T
  uint64_t cached;              // C
  const int64_t* tokens;        // [T]
  const int64_t* positions;     // [T]
  const float* mask;            // [T, C+T]
  const float* const* cache;    // k.0 v.0 k.1 v.1 ..., each [KV, C, D]
  const uint32_t* rows;         // which rows of the logits are wanted
  uint64_t rows_len;            // R
  float* logits;                // [R, V]
  float* const* fresh;          // new_k.0 new_v.0 ..., each [KV, T, D]
};
}

// A loaded program and the shape of its method `forward`.
struct Model {
  explicit Model(const char* path) : module(path, Module::LoadMode::Mmap) {
    check(module.load(Program::Verification::InternalConsistency), "load the program");
    if (!checked(module.method_names(), "list the methods").count("forward"))
      throw std::runtime_error("the program has no method `forward`");
    check(module.load_forward(), "load method forward");
    read_shape();
    ++open_models;
  }
  ~Model() { --open_models; }

  void read_shape() {
    MethodMeta meta = checked(module.method_meta("forward"), "describe method forward");
    const size_t inputs = meta.num_inputs(), outputs = meta.num_outputs(), layers = inputs < 3 ? 0 : (inputs - 3) / 2;
    // Caches come in pairs: one input more says which rows need logits.
    leading = 3 + (inputs > 3 && inputs % 2 == 0);
    if (layers == 0 || inputs != leading + 2 * layers || outputs != 1 + 2 * layers)
      throw std::runtime_error("method forward is not a step graph: it has " + std::to_string(inputs) + " inputs and " +
                               std::to_string(outputs) + " outputs, not 3 or 4 + 2 and 1 + 2 a layer");
    auto input = [&](size_t i, ScalarType type, size_t rank) {
      return bounds(meta.input_tensor_meta(i), "input " + std::to_string(i), type, rank);
    };
    auto output = [&](size_t i, size_t rank) {
      return bounds(meta.output_tensor_meta(i), "output " + std::to_string(i), ScalarType::Float, rank);
    };
    const Sizes k = input(leading, ScalarType::Float, 4), logits = output(0, 3);
    const int32_t t = input(0, ScalarType::Long, 2)[1], c = k[2];
    expect("tokens", input(0, ScalarType::Long, 2), {1, t});
    expect("positions", input(1, ScalarType::Long, 2), {1, t});
    expect("mask", input(2, ScalarType::Float, 4), {1, 1, t, c + t});
    if (leading > 3) expect("rows", input(3, ScalarType::Float, 3), {1, t, t});
    expect("logits", logits, {1, t, logits[2]});
    for (size_t i = 0; i < 2 * layers; i++) {
      expect("cache " + std::to_string(i), input(leading + i, ScalarType::Float, 4), {1, k[1], c, k[3]});
      expect("new rows " + std::to_string(i), output(1 + i, 4), {1, k[1], t, k[3]});
    }
    shape = {uint64_t(t), uint64_t(c), layers, uint64_t(k[1]), uint64_t(k[3]), uint64_t(logits[2])};
    // An output outside the planned arena gets memory for its bound here, once.
    for (size_t i = 0; i < outputs; i++) {
      TensorInfo info = checked(meta.output_tensor_meta(i), "output");
      if (info.is_memory_planned()) continue;
      unplanned.emplace_back(info.nbytes() / sizeof(float));
      auto memory = from_blob(unplanned.back().data(), Sizes(info.sizes().begin(), info.sizes().end()), ScalarType::Float);
      check(module.set_output(EValue(*memory), i), "give memory to output " + std::to_string(i));
    }
  }

  void step(const DiffulexStep& in) {
    const int32_t t = int32_t(in.tokens_len), c = int32_t(in.cached), kv = int32_t(shape.kv_heads),
                  d = int32_t(shape.head_dim), v = int32_t(shape.vocab);
    if (t < 1 || c < 1) throw std::runtime_error("a step needs at least one token and one cached position");
    std::vector<TensorPtr> tensors;
    std::vector<EValue> inputs;
    auto give = [&](const void* data, Sizes sizes, ScalarType type) {
      tensors.push_back(from_blob(const_cast<void*>(data), std::move(sizes), type));
      inputs.emplace_back(*tensors.back());
    };
    give(in.tokens, {1, t}, ScalarType::Long);
    give(in.positions, {1, t}, ScalarType::Long);
    give(in.mask, {1, 1, t, c + t}, ScalarType::Float);
    // A step without rows is given one that nobody reads.
    const int32_t r = leading == 3 ? t : std::max<int32_t>(int32_t(in.rows_len), 1);
    if (leading > 3) {
      chosen.assign(size_t(r) * t, 0.0f);
      for (size_t i = 0; i < in.rows_len; i++) chosen[i * t + in.rows[i]] = 1.0f;
      give(chosen.data(), {1, r, t}, ScalarType::Float);
    }
    for (size_t i = 0; i < 2 * shape.layers; i++) give(in.cache[i], {1, kv, c, d}, ScalarType::Float);

    const auto outputs = checked(module.forward(inputs), "step of " + std::to_string(t) + " tokens over " +
                                                             std::to_string(c) + " cached positions");
    auto take = [&](size_t i, const Sizes& sizes) {
      const Tensor& tensor = outputs.at(i).toTensor();
      expect("output " + std::to_string(i), Sizes(tensor.sizes().begin(), tensor.sizes().end()), sizes);
      return tensor.const_data_ptr<float>();
    };
    const float* logits = take(0, {1, r, v});
    for (size_t i = 0; i < in.rows_len; i++) {
      const size_t row = leading == 3 ? in.rows[i] : i;
      std::memcpy(in.logits + i * size_t(v), logits + row * size_t(v), size_t(v) * sizeof(float));
    }
    for (size_t i = 0; i < 2 * shape.layers; i++)
      std::memcpy(in.fresh[i], take(1 + i, {1, kv, t, d}), size_t(kv) * t * d * sizeof(float));
  }

  Module module;
  DiffulexShape shape;
  size_t leading = 3;         // inputs before the caches
  std::vector<float> chosen;  // [R, T]: a one in each row
  std::vector<std::vector<float>> unplanned;  // memory of the outputs outside the planned arena
};

extern "C" {
uint32_t diffulex_executorch_abi() { return ABI; }

// Valid until the next failing call on this thread.
const char* diffulex_executorch_error() { return failure.c_str(); }

// Null when it fails.
Model* diffulex_executorch_open(const char* path, DiffulexShape* shape) {
  Model* model = nullptr;
  guarded([&] {
    model = new Model(path);
    *shape = model->shape;
    return OK;
  });
  return model;
}

void diffulex_executorch_close(Model* model) {
  guarded([&] { delete model; return OK; });
}

int32_t diffulex_executorch_step(Model* model, const DiffulexStep* step) {
  return guarded([&] { model->step(*step); return OK; });
}

// What the constant method `name` returns, one line a value; the text is valid until the next such call on this thread.
int32_t diffulex_executorch_constant(Model* model, const char* name, const char** text) {
  return guarded([&] {
    if (!checked(model->module.method_names(), "list the methods").count(name)) return ABSENT;
    const std::string where = std::string("constant method ") + name;
    if (checked(model->module.method_meta(name), where).num_inputs() != 0) throw std::runtime_error(where + " takes inputs");
    answer.clear();
    for (const EValue& value : checked(model->module.execute(name), where)) {
      if (value.isInt()) answer += std::to_string(value.toInt());
      else if (value.isBool()) answer += value.toBool() ? "true" : "false";
      else if (value.isDouble()) answer += std::to_string(value.toDouble());
      else if (value.isString()) answer += value.toString();
      else throw std::runtime_error(where + " returns neither numbers nor text");
      answer += '\n';
    }
    model->module.unload_method(name);
    *text = answer.c_str();
    return OK;
  });
}

// Threads of the one pool all models share. XNNPACK keeps a pointer to it, so it changes only while no model is open.
int32_t diffulex_executorch_set_threads(uint32_t threads) {
  return guarded([&] {
    if (open_models != 0) throw std::runtime_error("the number of threads is set before the first model is opened");
    auto* pool = get_threadpool();
    if (!pool || !pool->_unsafe_reset_threadpool(threads)) throw std::runtime_error("the thread pool cannot be resized");
    return OK;
  });
}

uint32_t diffulex_executorch_threads() {
  uint32_t threads = 1;
  guarded([&] {
    if (auto* pool = get_threadpool()) threads = uint32_t(pool->get_thread_count());
    return OK;
  });
  return threads;
}
}
