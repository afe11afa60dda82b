/*
 * From the boot loader to C: long mode with 4 GB mapped one to one, and every register of AVX-512 switched on.
 * Multiboot 1. The program to run is inside this image (`program`), which lies at 256 MB, out of its way.
 */
.set FLAGS, 0x00010003
.section .multiboot, "a"
.align 4
header:
  .long 0x1BADB002, FLAGS, -(0x1BADB002 + FLAGS)
  .long header, _load, _edata, _end, start

.text
.code32
.globl start
start:
  cli
  mov $tables_end, %esp
  /* 2048 pages of 2 MB. */
  mov $directories, %edi
  xor %ecx, %ecx
1:
  mov %ecx, %eax
  shl $21, %eax
  or $0x83, %eax
  mov %eax, (%edi, %ecx, 8)
  movl $0, 4(%edi, %ecx, 8)
  inc %ecx
  cmp $2048, %ecx
  jb 1b
  mov $pointers, %edi
  mov $directories + 3, %eax
  mov $4, %ecx
2:
  mov %eax, (%edi)
  movl $0, 4(%edi)
  add $8, %edi
  add $4096, %eax
  loop 2b
  movl $pointers + 3, root
  mov $root, %eax
  mov %eax, %cr3
  mov %cr4, %eax
  or $0x50620, %eax             /* PAE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE */
  mov %eax, %cr4
  mov $0xC0000080, %ecx
  rdmsr
  or $0x101, %eax               /* EFER: long mode, syscall */
  wrmsr
  mov %cr0, %eax
  and $~4, %eax
  or $0x80000022, %eax          /* paging, coprocessor there and monitored */
  mov %eax, %cr0
  lgdt gdt_pointer
  ljmp $8, $start64

.code64
start64:
  mov $16, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov $stack_end, %rsp
  xor %ecx, %ecx
  mov $0xE7, %eax               /* x87, SSE, AVX, the three parts of AVX-512 */
  xor %edx, %edx
  xsetbv
  call boot
3:
  hlt
  jmp 3b

/* A system call of the program: C's stack, C's calling convention, and back. */
.globl system_call_entry
system_call_entry:
  mov %rsp, program_stack(%rip)
  mov $stack_end, %rsp
  push %rcx
  push %r11
  push %rdi
  push %rsi
  push %rdx
  push %r10
  push %r8
  push %r9
  mov %r8, %r9
  mov %r10, %r8
  mov %rdx, %rcx
  mov %rsi, %rdx
  mov %rdi, %rsi
  mov %rax, %rdi
  call system_call
  pop %r9
  pop %r8
  pop %r10
  pop %rdx
  pop %rsi
  pop %rdi
  pop %r11
  pop %rcx
  mov program_stack(%rip), %rsp
  jmp *%rcx

/* enter(address, stack): starts the program. */
.globl enter
enter:
  mov %rsi, %rsp
  xor %edx, %edx
  xor %ebp, %ebp
  jmp *%rdi

/* 32 exceptions, 16 bytes each; some bring an error code of their own. */
.globl exceptions
.align 16
exceptions:
.set i, 0
.rept 32
  .align 16
  .if !((i == 8) || ((i >= 10) && (i <= 14)) || (i == 17))
  push $0
  .endif
  push $i
  jmp exception
  .set i, i + 1
.endr
exception:
  mov (%rsp), %rdi
  mov 8(%rsp), %rsi
  mov 16(%rsp), %rdx
  mov $stack_end, %rsp
  call fault

.align 8
gdt:
  .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
  .word 23
  .long gdt

.section .rodata
.globl program
.align 16
program:
  .incbin "program"

.bss
.align 4096
root: .skip 4096
pointers: .skip 4096
directories: .skip 16384
tables_end: .skip 65536
stack_end: .skip 16
program_stack: .skip 8

.section .note.GNU-stack, "", @progbits
