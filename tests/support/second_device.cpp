// A device of its own on CPU memory, for tests: every operator runs the CPU's kernel on the same
// bytes, but tensors of two devices do not mix, convolutions refuse mixed types, float64 may be
// forbidden, and copies and looks of the host are counted.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <map>
#include <mutex>
#include <unordered_map>

namespace {

using at::Tensor;
const c10::Device kDevice(c10::DeviceType::PrivateUse1, 0);

std::mutex mutex;
std::map<std::string, int64_t> counts;
bool float64_allowed = true;

void count(const std::string& what) {
  std::lock_guard<std::mutex> lock(mutex);
  ++counts[what];
}

// Memory

struct DeviceAllocator final : at::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    return {data, data, &c10::free_cpu, kDevice};
  }
  at::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
DeviceAllocator allocator;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &allocator);

struct DeviceGuard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device getDevice() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return kDevice; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(kDevice); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, DeviceGuard);

struct DeviceHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  at::Device getDeviceFromPtr(void*) const override { return kDevice; }
  // Draws the CPU's numbers, as every operator here runs the CPU's kernel.
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::detail::createCPUGenerator();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::DataPtr data = allocator.allocate(bytes);
    std::memcpy(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

bool on_device(const Tensor& t) { return t.defined() && t.device().is_privateuseone(); }

Tensor over(c10::Storage storage, c10::DispatchKey key, const Tensor& like) {
  Tensor made = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return made;
}

void drop_holder(void* context) { delete static_cast<c10::Storage*>(context); }

c10::Storage storage_over(const c10::Storage& storage, c10::Device device) {
  auto* holder = new c10::Storage(storage);
  return c10::Storage(
      c10::Storage::use_byte_size_t(), storage.nbytes(),
      at::DataPtr(storage.mutable_data(), holder, &drop_holder, device),
      device.is_cpu() ? c10::GetAllocator(c10::kCPU) : &allocator, true);
}

Tensor as_cpu(const Tensor& t) {
  return over(storage_over(t.storage(), c10::kCPU), c10::DispatchKey::CPU, t);
}

Tensor as_device(const Tensor& t) {
  return over(storage_over(t.storage(), kDevice), c10::DispatchKey::PrivateUse1, t);
}

// Operators

const std::vector<std::string> kMayMix = {
    "aten::index.Tensor", "aten::index.Tensor_out", "aten::index_put_", "aten::_index_put_impl_",
    "aten::set_.source_Tensor", "aten::set_.source_Storage", "aten::equal"};
const std::vector<std::string> kHostReads = {
    "aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::is_nonzero"};

bool among(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string name_of(const c10::OperatorHandle& op) {
  const auto& name = op.operator_name();
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

struct Call {
  std::string name;
  std::vector<std::pair<Tensor, Tensor>> pairs;  // a tensor of the device, and its CPU alias
  bool has_cpu = false;

  Tensor alias(const Tensor& t) {
    if (!t.defined()) return t;
    if (!on_device(t)) {
      if (t.device().is_cpu() && t.dim() > 0) has_cpu = true;
      return t;
    }
    for (auto& pair : pairs)
      if (pair.first.is_same(t)) return pair.second;
    pairs.emplace_back(t, as_cpu(t));
    return pairs.back().second;
  }

  Tensor back(const Tensor& t) {
    if (!t.defined() || !t.device().is_cpu()) return t;
    for (auto& [device, cpu] : pairs)
      if (cpu.is_same(t)) return device;
    for (auto& [device, cpu] : pairs)
      if (cpu.storage().data() == t.storage().data() && t.storage().data() != nullptr) {
        Tensor view = at::detail::make_tensor<c10::TensorImpl>(
            c10::TensorImpl::VIEW, c10::Storage(device.storage()), device.key_set(), t.dtype());
        view.unsafeGetTensorImpl()->set_sizes_and_strides(
            t.sizes(), t.strides(), t.storage_offset());
        return view;
      }
    return as_device(t);
  }

  void check() const {
    TORCH_CHECK(
        pairs.empty() || !has_cpu || among(kMayMix, name),
        "Expected all tensors to be on the same device, but found at least two devices, ", kDevice,
        " and cpu! (", name, ")");
  }

  void take_resized() {
    for (auto& [device, cpu] : pairs) {
      if (cpu.storage().data() != device.storage().data() || cpu.sizes() != device.sizes() ||
          cpu.strides() != device.strides()) {
        auto* impl = device.unsafeGetTensorImpl();
        if (cpu.storage().data() != device.storage().data())
          impl->set_storage_keep_dtype(storage_over(cpu.storage(), kDevice));
        impl->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
      }
    }
  }
};

c10::IValue map_value(const c10::IValue& value, const std::function<Tensor(const Tensor&)>& f) {
  if (value.isTensor()) return f(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> made;
    for (const Tensor& t : value.toTensorVector()) made.push_back(f(t));
    return made;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> made;
    for (const std::optional<Tensor>& t : value.toOptionalTensorVector())
      made.push_back(t.has_value() ? std::optional<Tensor>(f(*t)) : std::nullopt);
    return made;
  }
  if (value.isDevice() && value.toDevice().is_privateuseone()) return c10::IValue(c10::Device(c10::kCPU));
  return value;
}

void check_dtype(c10::ScalarType dtype) {
  TORCH_CHECK_TYPE(
      float64_allowed || dtype != at::kDouble,
      "Cannot convert a tensor to float64: this device has no float64. Use float32 instead.");
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  Call call;
  call.name = name_of(op);
  if (among(kHostReads, call.name)) count("host reads");
  const auto arguments = op.schema().arguments().size();
  const auto begin = stack->size() - arguments;
  for (size_t k = begin; k < stack->size(); ++k)
    (*stack)[k] = map_value((*stack)[k], [&](const Tensor& t) { return call.alias(t); });
  call.check();
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.take_resized();
  for (size_t k = stack->size() - op.schema().returns().size(); k < stack->size(); ++k)
    (*stack)[k] = map_value((*stack)[k], [&](const Tensor& t) {
      Tensor made = call.back(t);
      if (made.defined()) check_dtype(made.scalar_type());
      return made;
    });
}

// What torch asks of a backend itself

Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  check_dtype(c10::dtype_or_default(dtype));
  return as_device(at::detail::empty_strided_cpu(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), c10::dtype_or_default(dtype)));
}

Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_dtype(c10::dtype_or_default(dtype));
  return as_device(at::detail::empty_cpu(
      C10_AS_INTARRAYREF_SLOW(size), c10::dtype_or_default(dtype), false, format));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (on_device(from) != on_device(to)) {
    count(on_device(to) ? "copies to the device" : "copies from the device");
    // Small ones hide behind the launch; large ones from memory that is not pinned make the host wait.
    if (on_device(to) && from.dim() > 0 && from.numel() > 0) count("tensors to the device");
  }
  Tensor source = on_device(from) ? as_cpu(from) : from;
  Tensor target = on_device(to) ? as_cpu(to) : to;
  target.copy_(source);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

const Tensor& resize(
    const Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  Tensor cpu = at::detail::empty_cpu(C10_AS_INTARRAYREF_SLOW(size), self.scalar_type(), false, format);
  auto* impl = self.unsafeGetTensorImpl();
  if (self.storage().nbytes() < cpu.storage().nbytes()) {
    std::memcpy(cpu.storage().mutable_data(), self.storage().data(), self.storage().nbytes());
    impl->set_storage_keep_dtype(storage_over(cpu.storage(), kDevice));
  }
  impl->set_sizes_and_strides(cpu.sizes(), cpu.strides(), 0);
  return self;
}

void check_convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  TORCH_CHECK(
      on_device(input) && on_device(weight) && (!bias || !bias->defined() || on_device(*bias)),
      "Input type and weight type should be on the same device (convolution)");
  TORCH_CHECK(
      input.scalar_type() == weight.scalar_type() &&
          (!bias || !bias->defined() || bias->scalar_type() == input.scalar_type()),
      "Input type (", input.scalar_type(), ") and weight type (", weight.scalar_type(),
      ") should be the same (convolution)");
}

Tensor convolution(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
    bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  check_convolution(input, weight, bias);
  std::optional<Tensor> cpu_bias;
  if (bias && bias->defined()) cpu_bias = as_cpu(*bias);
  return as_device(at::convolution_symint(
      as_cpu(input), as_cpu(weight), cpu_bias, stride, padding, dilation, transposed,
      output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& input, const Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> mask) {
  auto [x, w, b] = at::convolution_backward_symint(
      as_cpu(gradient), as_cpu(input), as_cpu(weight),
      at::OptionalSymIntArrayRef(c10::SymIntArrayRef()), stride, padding, dilation, transposed,
      output_padding, groups, mask);
  auto back = [](const Tensor& t) { return t.defined() ? as_device(t) : t; };
  return {back(x), back(w), back(b)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  at::RegisterPrivateUse1HooksInterface(new DeviceHooks());
  m.def("counts", [] {
    std::lock_guard<std::mutex> lock(mutex);
    return counts;
  });
  m.def("reset", [] {
    std::lock_guard<std::mutex> lock(mutex);
    counts.clear();
  });
  m.def("allow_float64", [](bool allowed) { float64_allowed = allowed; });
  // Memory that others own, as a tensor of the device; the caller keeps it alive.
  m.def("over", [](const Tensor& cpu) { return as_device(cpu); });
}
