#include "ridgeline/ops/cpu/matmul_epilogue.h"

#include "ridgeline/ops/cpu/elementwise_rows.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::ops::cpu {

void MatmulEpilogue::begin_columns(int64_t column, int64_t columns, const Stage& stage) const {
  if (!p_.bias || p_.bias.dtype != DType::f16) return;
  cast(calling_thread(), columns, p_.bias.at(column), stage.bias);
}

// Reads the sums of earlier chunks, or what is accumulated to, and writes sums.
Finish MatmulEpilogue::sums_between_chunks(int64_t chunk, int64_t row, int64_t column) const {
  const int64_t at = row * p_.ldc + column;
  Finish finish{.carry = nullptr,
                .ld_carry = p_.ldc,
                .bias = nullptr,
                .bias_dtype = DType::f32,
                .residual = nullptr,
                .soon = nullptr,
                .out = p_.c.at(at).data,
                .ld_out = p_.ldc,
                .out_dtype = DType::f32};
  if (carry_ != nullptr) {
    finish.out = carry_ + row * p_.n + column;
    finish.ld_out = p_.n;
  }
  if (chunk > 0 && carry_ != nullptr) {
    finish.carry = carry_ + row * p_.n + column;
    finish.ld_carry = p_.n;
  } else if (chunk > 0 || p_.accumulate) {
    finish.carry = p_.c.as<float>() + at;
  }
  return finish;
}

Finish MatmulEpilogue::finish_of(int64_t chunk, int64_t row, int64_t column, const Stage& stage) const {
  Finish finish = sums_between_chunks(chunk, row, column);
  if (chunk + 1 < plan_.chunks) return finish;
  const int64_t at = row * p_.ldc + column;
  if (p_.bias && p_.bias.dtype == DType::f16) {
    finish.bias = stage.bias;
  } else if (p_.bias) {
    finish.bias = p_.bias.at(column).data;
    finish.bias_dtype = p_.bias.dtype;
  }
  if (p_.c.dtype == DType::f16) {
    finish.out = stage.rows;
    finish.ld_out = stage.ld;
    return finish;
  }
  finish.out = p_.c.at(at).data;
  finish.ld_out = p_.ldc;
  finish.out_dtype = p_.c.dtype;
  switch (p_.epilogue) {
    case Epilogue::plain:
      break;
    case Epilogue::residual:
      finish.residual = p_.residual.at(at).data;
      break;
    case Epilogue::gelu:
      finish.out = p_.pre_activation.at(at).data;
      finish.soon = p_.c.at(at).data;
      break;
    case Epilogue::gelu_grad:
      finish.soon = p_.activation_input.at(at).data;
      break;
  }
  return finish;
}

void MatmulEpilogue::complete(int64_t row, int64_t column, int64_t rows, int64_t columns, const Stage& stage) const {
  if (p_.c.dtype == DType::f16) round_rows(row, column, rows, columns, stage);
  activate(row, column, rows, columns);
}

// P of rows of C in f16, and the sum with the residual, from the sums in the stage.
void MatmulEpilogue::round_rows(int64_t row, int64_t column, int64_t rows, int64_t columns, const Stage& stage) const {
  device::Stream& stream = calling_thread();
  int64_t at = row * p_.ldc + column;
  for (int64_t i = 0; i < rows; ++i, at += p_.ldc) {
    const float* sums = stage.rows + i * stage.ld;
    switch (p_.epilogue) {
      case Epilogue::plain:
      case Epilogue::gelu_grad:
        cast(stream, columns, sums, p_.c.at(at));
        break;
      case Epilogue::gelu:
        cast(stream, columns, sums, p_.pre_activation.at(at));
        break;
      case Epilogue::residual:
        cast(stream, columns, sums, stage.rounded);
        add(stream, columns, stage.rounded, p_.residual.at(at), p_.c.at(at));
        break;
    }
  }
}

// The activation of finished rows of C, from the values as stored.
void MatmulEpilogue::activate(int64_t row, int64_t column, int64_t rows, int64_t columns) const {
  const int64_t at = row * p_.ldc + column;
  switch (p_.epilogue) {
    case Epilogue::plain:
    case Epilogue::residual:
      break;
    case Epilogue::gelu:
      gelu_forward_rows(rows, columns, p_.ldc, p_.pre_activation.at(at), p_.c.at(at));
      break;
    case Epilogue::gelu_grad:
      gelu_backward_rows(rows, columns, p_.ldc, p_.activation_input.at(at), p_.c.at(at), p_.c.at(at));
      break;
  }
}

}  // namespace ridgeline::ops::cpu
