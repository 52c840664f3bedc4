// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "../include/device.h"

namespace mambatune {

Error sample_token(const SampleTokenParams& p);

}  // namespace mambatune
