// SPDX-License-Identifier: Apache-2.0
pragma circom 2.1.9;
include "cover.circom";

// 8 slots: small enough for tests.
component main {public [chunkRoot, study, site, dataset, required, from, through, context]} = Cover(3);
