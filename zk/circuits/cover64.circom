// SPDX-License-Identifier: Apache-2.0
pragma circom 2.1.9;
include "cover.circom";

// 64 slots: the chunk used in production.
component main {public [chunkRoot, study, site, dataset, required, from, through, context]} = Cover(6);
