#include "cmd/page.h"

/* The assembler reads the file; the Makefile knows that this object depends on it. */
__asm__(".section .rodata.cmd_page, \"a\"\n"
        ".global cmd_page\n"
        ".global cmd_page_end\n"
        "cmd_page:\n"
        ".incbin \"cmd/page.html\"\n"
        "cmd_page_end:\n"
        ".byte 0\n"
        ".previous\n");
