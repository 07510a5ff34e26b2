// SPDX-License-Identifier: Apache-2.0
pragma circom 2.1.9;

/*
 * Cover(K): which of the 2^K slots of a chunk are used is hidden; that each used one is allowed is proven.
 * The claim in words, with what it hides and what a verifier must refuse, is in zk/cover.py.
 *
 * Public    out  ds          binds each used subject to its record digest, hidden by blind
 *                count       how many slots are used
 *           in   chunkRoot   root of the chunk's leaves
 *                study, site, dataset, required, from, through   the scope every used slot must allow
 *                context     where the proof may be shown
 * Private   per slot: leaf, used, subject, salt, grants, notBefore, expiry, record;   once: blind
 *
 * A used slot opens its leaf:
 *   leaf  = Poseidon(subject, terms, salt)
 *   terms = grants(32) + site(32) 2^32 + dataset(32) 2^64 + study(64) 2^96
 *         + notBefore(16) 2^160 + expiry(16) 2^176
 * Every field is range checked, so terms is below 2^192 and its packing is injective. A slot that
 * is not used needs no opening: its leaf is only hashed into the root, and zeros serve elsewhere.
 *
 * Every public signal is in a constraint. Wires are numbered in the order of declaration, outputs
 * first: zk/cover.py relies on that order.
 */
include "poseidon.circom";
include "bitify.circom";
include "comparators.circom";

// allowed = 1 iff grants holds every bit of required and notBefore <= from and through < expiry.
template Allowed() {
    signal input required[32];      // bits, checked by the caller
    signal input from;              // below 2^16, checked by the caller
    signal input through;           // below 2^16, checked by the caller
    signal input grants;
    signal input notBefore;
    signal input expiry;
    signal output failures;         // 0 iff allowed; at most 34, so it cannot wrap round to 0

    signal bits[32] <== Num2Bits(32)(grants);
    signal missing[32];
    var sum = 0;
    for (var j = 0; j < 32; j++) {
        missing[j] <== required[j] * (1 - bits[j]);
        sum += missing[j];
    }

    // LessThan(16) is sound only for inputs below 2^16.
    _ <== Num2Bits(16)(notBefore);
    _ <== Num2Bits(16)(expiry);
    signal tooEarly <== LessThan(16)([from, notBefore]);
    signal inTime <== LessThan(16)([through, expiry]);
    failures <== sum + tooEarly + (1 - inTime);
}

template Cover(K) {
    var N = 1 << K;

    signal output ds;
    signal output count;
    signal input chunkRoot;
    signal input study;
    signal input site;
    signal input dataset;
    signal input required;
    signal input from;
    signal input through;
    signal input context;

    signal input leaf[N];
    signal input used[N];
    signal input subject[N];
    signal input salt[N];
    signal input grants[N];
    signal input notBefore[N];
    signal input expiry[N];
    signal input record[N];
    signal input blind;

    signal requiredBits[32] <== Num2Bits(32)(required);
    _ <== Num2Bits(64)(study);
    _ <== Num2Bits(32)(site);
    _ <== Num2Bits(32)(dataset);
    _ <== Num2Bits(16)(from);
    _ <== Num2Bits(16)(through);

    signal failures[N];
    signal opened[N];
    signal usedSubject[N];
    signal usedRecord[N];
    signal folded[N + 1];
    folded[0] <== Poseidon(2)([blind, context]);
    var total = 0;
    for (var i = 0; i < N; i++) {
        used[i] * (used[i] - 1) === 0;
        total += used[i];

        failures[i] <== Allowed()(requiredBits, from, through, grants[i], notBefore[i], expiry[i]);
        used[i] * failures[i] === 0;

        opened[i] <== Poseidon(3)([
            subject[i],
            grants[i] + site * (1 << 32) + dataset * (1 << 64) + study * (1 << 96)
                + notBefore[i] * (1 << 160) + expiry[i] * (1 << 176),
            salt[i]
        ]);
        used[i] * (opened[i] - leaf[i]) === 0;

        usedSubject[i] <== used[i] * subject[i];
        usedRecord[i] <== used[i] * record[i];
        folded[i + 1] <== Poseidon(3)([folded[i], usedSubject[i], usedRecord[i]]);
    }
    ds <== folded[N];
    count <== total;

    // A binary heap: node 1 is the root, nodes N..2N-1 are the leaves.
    signal node[2 * N];
    node[0] <== 0;
    for (var i = 0; i < N; i++) {
        node[N + i] <== leaf[i];
    }
    for (var i = N - 1; i > 0; i--) {
        node[i] <== Poseidon(2)([node[2 * i], node[2 * i + 1]]);
    }
    node[1] === chunkRoot;
}
