// The second, independent node: unlike anvil it refuses a signature with a high s value (EIP-2).
module.exports = {
  networks: { hardhat: { chainId: Number(process.env.CHAIN_ID || 31337), hardfork: "prague" } },
};
