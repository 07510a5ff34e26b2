// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What a verifier of Semaphore's proofs answers.
interface ISemaphoreVerifier {
    /// @notice Return if the proof holds for root, nullifier, and the hashes of message and scope;
    ///         revert otherwise.
    function verify(uint256[4] calldata publicInputs, uint256[8] calldata proof) external view;
}
