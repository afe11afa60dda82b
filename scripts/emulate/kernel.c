// Loads one static Linux program and answers the few system calls that a Rust test binary makes, on one thread.
//
// Memory: the program where it was linked (below 240 MB), this image at 256 MB, its break from 416 MB, its stack
// below that, mapped memory from 512 MB to 1 GB and never given back. Output goes to the first serial port. Port
// 0x8900 switches Bochs off.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long u64;

enum { ENOENT = 2, EAGAIN = 11, ENOMEM = 12, ENODEV = 19, EINVAL = 22, ENOTTY = 25, ENOSYS = 38 };
#define PROGRAM_START 0x00200000UL
#define PROGRAM_END 0x0f000000UL
#define STACK 0x19ff0000UL
#define BREAK_START 0x1a000000UL
#define BREAK_END 0x1e000000UL
#define MAPPED_START 0x20000000UL
#define MAPPED_END 0x3ff00000UL
#define SERIAL 0x3f8

extern u8 program[], exceptions[];
void system_call_entry(void);
void enter(u64 address, u64 stack);

static void out(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static u8 in(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void set_register(u32 number, u64 value) {
    __asm__ volatile("wrmsr" ::"c"(number), "a"((u32)value), "d"((u32)(value >> 32)));
}

void *memset(void *to, int value, u64 count) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, u64 count) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    return start;
}

static void put(char letter) {
    while (!(in(SERIAL + 5) & 0x20)) {
    }
    out(SERIAL, letter);
}

static void print(const char *text) {
    while (*text) put(*text++);
}

static void print_hex(u64 value) {
    print("0x");
    for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}

static void power_off(void) {
    // What the port still holds would be lost.
    while (!(in(SERIAL + 5) & 0x40)) {
    }
    for (const char *text = "Shutdown"; *text; text++) out(0x8900, *text);
    for (;;) __asm__("hlt");
}

void fault(u64 vector, u64 error, u64 address) {
    u64 touched;
    __asm__("mov %%cr2, %0" : "=r"(touched));
    print("\nFAULT, vector, error code, at, memory: ");
    print_hex(vector), put(' '), print_hex(error), put(' '), print_hex(address), put(' '), print_hex(touched);
    print("\n");
    power_off();
}

static u64 program_break = BREAK_START, mapped = MAPPED_START;

static long map(u64 bytes) {
    bytes = (bytes + 4095) & ~4095UL;
    if (bytes > MAPPED_END - mapped) return -ENOMEM;
    u64 start = mapped;
    mapped += bytes;
    memset((void *)start, 0, bytes);
    return start;
}

static u64 ticks(void) {
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

// The x86-64 numbers of Linux. A seventh argument does not exist, and the sixth (an offset in a file) is not needed.
long system_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e) {
    switch (number) {
    case 0: // read: the end of the file
        return 0;
    case 1: // write
        for (u64 i = 0; i < c; i++) put(((char *)b)[i]);
        return c;
    case 20: { // writev
        u64 *parts = (u64 *)b, total = 0;
        for (u64 i = 0; i < c; i++) total += system_call(1, a, parts[2 * i], parts[2 * i + 1], 0, 0);
        return total;
    }
    case 9: // mmap, of no file
        return (long)e >= 0 && !(d & 0x20) ? -ENODEV : map(b);
    case 25: { // mremap
        if (c <= b) return a;
        long moved = map(c);
        if (moved > 0) memcpy((void *)moved, (void *)a, b);
        return moved;
    }
    case 12: // brk
        if (a >= BREAK_START && a < BREAK_END) {
            if (a > program_break) memset((void *)program_break, 0, a - program_break);
            program_break = a;
        }
        return program_break;
    case 158: // arch_prctl: the base of thread-local memory
        if (a != 0x1002) return -EINVAL;
        set_register(0xC0000100, b);
        return 0;
    case 302: // prlimit64
        if (d) ((u64 *)d)[0] = 8 << 20, ((u64 *)d)[1] = ~0UL;
        return 0;
    case 318: // getrandom: the same every time
        memset((void *)a, 7, b);
        return b;
    case 228: // clock_gettime
        ((u64 *)b)[0] = ticks() / 1000000000, ((u64 *)b)[1] = ticks() % 1000000000;
        return 0;
    case 204: // sched_getaffinity: one CPU
        memset((void *)c, 0, b);
        *(u8 *)c = 1;
        return 8;
    case 79: // getcwd
        ((char *)a)[0] = '/', ((char *)a)[1] = 0;
        return 2;
    case 39: case 186: case 218: // getpid, gettid, set_tid_address
        return 1;
    case 7: case 10: case 11: case 13: case 14: case 24: case 28: case 35: case 72: case 131: case 202: case 230:
    case 273: // poll, mprotect, munmap, signals, yield, madvise, sleep, fcntl, futex, robust list
        return 0;
    case 21: case 89: case 257: case 262: case 267: // no file is there
        return -ENOENT;
    case 56: case 435: // no thread either; the test harness then runs a test on its own
        return -EAGAIN;
    case 16: // ioctl
        return -ENOTTY;
    case 60: case 231:
        print(a ? "\nEXIT failed\n" : "\nEXIT passed\n");
        power_off();
    }
    return -ENOSYS;
}

struct gate {
    u16 low, selector;
    u8 stack, type;
    u16 middle;
    u32 high, zero;
} __attribute__((packed));
static struct gate gates[32] __attribute__((aligned(16)));
static struct {
    u16 limit;
    u64 base;
} __attribute__((packed)) gate_pointer;

static u16 half(const u8 *at) { return *(const u16 *)at; }
static u32 word(const u8 *at) { return *(const u32 *)at; }
static u64 wide(const u8 *at) { return *(const u64 *)at; }

// Copies the loadable segments of the ELF file; the address of its program headers in memory.
static u64 load(void) {
    u64 headers = wide(program + 32), found = 0;
    for (int i = 0; i < half(program + 56); i++) {
        const u8 *header = program + headers + 56 * i;
        u64 offset = wide(header + 8), address = wide(header + 16);
        u64 file_bytes = wide(header + 32), bytes = wide(header + 40);
        if (word(header) != 1) continue;
        if (address < PROGRAM_START || address + bytes > PROGRAM_END) print("the program is elsewhere\n"), power_off();
        memset((void *)address, 0, bytes);
        memcpy((void *)address, program + offset, file_bytes);
        if (headers >= offset && headers < offset + file_bytes) found = address + headers - offset;
    }
    return found;
}

void boot(void) {
    out(SERIAL + 1, 0), out(SERIAL + 3, 0x80), out(SERIAL, 1), out(SERIAL + 1, 0), out(SERIAL + 3, 3);
    for (int i = 0; i < 32; i++) {
        u64 address = (u64)exceptions + 16 * i;
        gates[i] = (struct gate){address, 8, 0, 0x8e, address >> 16, address >> 32, 0};
    }
    gate_pointer.limit = sizeof gates - 1, gate_pointer.base = (u64)gates;
    __asm__ volatile("lidt %0" ::"m"(gate_pointer));
    set_register(0xC0000081, 8UL << 32);
    set_register(0xC0000082, (u64)system_call_entry);
    set_register(0xC0000084, 0);

    u64 headers = load();
    static const char *arguments[] = {ARGUMENTS, 0};
    static u8 seed[16];
    u64 *stack = (u64 *)STACK, count = sizeof arguments / sizeof *arguments - 1;
    *stack++ = count;
    for (u64 i = 0; i <= count; i++) *stack++ = (u64)arguments[i];
    *stack++ = 0; // no environment
    // Program headers and their size and number, page, start, four ids, CPU, clock, not set-uid, seed, end.
    const u64 auxiliary[][2] = {{3, headers}, {4, 56}, {5, half(program + 56)}, {6, 4096}, {9, wide(program + 24)},
                                {11, 0}, {12, 0}, {13, 0}, {14, 0}, {16, 0x178bfbff}, {17, 100}, {23, 0},
                                {25, (u64)seed}, {0, 0}};
    memcpy(stack, auxiliary, sizeof auxiliary);
    enter(wide(program + 24), STACK);
}
