/* page_parts: page.html, page.css and page.js as bytes of the program.
 *
 * Why        A report is written wherever the program runs; there is no folder to find them in.
 * Ownership  Constants; made by the BUILD file, not NUL-terminated.
 * Threading  Any thread. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

extern const uint8_t spin_bench_page_html[];
extern const uint64_t spin_bench_page_html_bytes;
extern const uint8_t spin_bench_page_css[];
extern const uint64_t spin_bench_page_css_bytes;
extern const uint8_t spin_bench_page_script[];
extern const uint64_t spin_bench_page_script_bytes;

SPIN_END_DECLS
