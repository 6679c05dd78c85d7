#include "ridgeline/ops/cpu/matmul_providers.h"

#include <fmt/format.h>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/device/cpu/worker_team.h"

#if defined(RIDGELINE_HAVE_OPENBLAS)
#include <cblas.h>
#endif
#if defined(RIDGELINE_HAVE_ONEDNN)
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace ridgeline::ops {
namespace {

// Of no use where neither library is there.
[[maybe_unused]] bool is_plain(const Matmul& p) {
  return !p.bias && p.epilogue == Epilogue::plain && p.row_sums_of_a == nullptr;
}

#if defined(RIDGELINE_HAVE_OPENBLAS)
void by_openblas(int threads, const Matmul& p) {
  openblas_set_num_threads(threads);
  const auto transposed = [](const Matrix& matrix) {
    return matrix.layout == Layout::row_major ? CblasNoTrans : CblasTrans;
  };
  const auto narrow = [](int64_t value) { return static_cast<blasint>(value); };
  cblas_sgemm(CblasRowMajor, transposed(p.a), transposed(p.b), narrow(p.m), narrow(p.n), narrow(p.k), 1.0F,
              p.a.data.as<float>(), narrow(p.a.ld), p.b.data.as<float>(), narrow(p.b.ld), p.accumulate ? 1.0F : 0.0F,
              p.c.as<float>(), narrow(p.ldc));
}
#endif

#if defined(RIDGELINE_HAVE_ONEDNN)
void by_onednn(int threads, const Matmul& p) {
  omp_set_num_threads(threads);
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto type = [](DType dtype) {
    if (dtype == DType::f32) return dnnl::memory::data_type::f32;
    RL_REQUIRE(dtype == DType::bf16, "oneDNN's product of dtype {}", name_of(dtype));
    return dnnl::memory::data_type::bf16;
  };
  const auto described = [&](const Matrix& matrix, int64_t rows, int64_t columns) {
    const bool row_major = matrix.layout == Layout::row_major;
    return dnnl::memory::desc({rows, columns}, type(matrix.data.dtype),
                              {row_major ? matrix.ld : 1, row_major ? 1 : matrix.ld});
  };
  const dnnl::memory::desc a = described(p.a, p.m, p.k), b = described(p.b, p.k, p.n);
  const dnnl::memory::desc c({p.m, p.n}, type(p.c.dtype), {p.ldc, 1});
  dnnl::primitive_attr attributes;
  if (p.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0F);
    attributes.set_post_ops(sum);
  }
  // Built from oneDNN's own cache after the first call of a shape.
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attributes, engine);
  const auto memory = [&](const dnnl::memory::desc& desc, const void* data) {
    return dnnl::memory(desc, engine, const_cast<void*>(data));
  };
  dnnl::matmul(description)
      .execute(stream, {{DNNL_ARG_SRC, memory(a, p.a.data.data)},
                        {DNNL_ARG_WEIGHTS, memory(b, p.b.data.data)},
                        {DNNL_ARG_DST, memory(c, p.c.data)}});
  stream.wait();
}
#endif

}  // namespace

const char* name_of(Provider provider) {
  switch (provider) {
    case Provider::ridgeline:
      return "ridgeline";
    case Provider::openblas:
      return "openblas";
    case Provider::onednn:
      return "onednn";
  }
  return "?";
}

std::vector<Provider> providers() {
  std::vector<Provider> all = {Provider::ridgeline};
#if defined(RIDGELINE_HAVE_OPENBLAS)
  all.push_back(Provider::openblas);
#endif
#if defined(RIDGELINE_HAVE_ONEDNN)
  all.push_back(Provider::onednn);
#endif
  return all;
}

bool offers(Provider provider, const Matmul& p) {
  if (provider == Provider::ridgeline) return true;
  const bool f32 = p.a.data.dtype == DType::f32 && p.c.dtype == DType::f32;
#if defined(RIDGELINE_HAVE_OPENBLAS)
  if (provider == Provider::openblas) return is_plain(p) && f32;
#endif
#if defined(RIDGELINE_HAVE_ONEDNN)
  // oneDNN multiplies bf16 from AVX-512 on.
  const bool bf16 = p.a.data.dtype == DType::bf16 && device::isa() >= device::Isa::avx512;
  if (provider == Provider::onednn) return is_plain(p) && (f32 || bf16);
#endif
  static_cast<void>(f32);
  return false;
}

void matmul_with(Provider provider, device::Stream& stream, const Matmul& product, Workspace workspace) {
  if (!offers(provider, product)) {
    throw Error(fmt::format("matmul: {} does not offer this product in this build", name_of(provider)),
                "Use the provider ridgeline.");
  }
#if defined(RIDGELINE_HAVE_OPENBLAS)
  if (provider == Provider::openblas) return by_openblas(stream.team().size(), product);
#endif
#if defined(RIDGELINE_HAVE_ONEDNN)
  if (provider == Provider::onednn) return by_onednn(stream.team().size(), product);
#endif
  matmul(stream, product, workspace);
}

}  // namespace ridgeline::ops
