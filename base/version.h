/* version: the number that --version prints and that peers tell each other. */
#pragma once

#define SPIN_VERSION "0.1.0"
