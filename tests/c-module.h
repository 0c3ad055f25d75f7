/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Included before all else in each file of the C iommufd when it is built
 * beside a kernel that was configured for the Rust one (scripts/kernel
 * c-module): it sees the configuration as it would be without that choice.
 */
#undef CONFIG_IOMMUFD_RUST
#undef CONFIG_IOMMUFD_RUST_KUNIT_TEST
